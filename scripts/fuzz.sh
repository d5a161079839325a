#!/usr/bin/env bash
# fuzz.sh [--no-build] [SECONDS [NAME...]]: builds the fuzzers into build/fuzz and runs each, or the named ones, for
# SECONDS (60; 0 only builds) from its seeds in fuzz/corpus/NAME and from what earlier runs kept in
# build/fuzz/corpus/NAME. A finding is named, kept in build/fuzz/findings, and makes the exit status 1.
# Again with one input: build/fuzz/bin/fuzz_NAME FILE
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=1
if [ "${1:-}" = --no-build ]; then
  build=0
  shift
fi
seconds=${1:-60}
shift || true

if [ "$build" = 1 ]; then
  if ! command -v clang++-14 >/dev/null; then
    echo "fuzz.sh: clang++-14 is missing; scripts/install_packages.sh installs it" >&2
    exit 1
  fi
  if [ ! -f build/fuzz/build.ninja ]; then
    cmake --preset fuzz
  fi
  cmake --build build/fuzz --parallel "$(nproc)"
fi
if [ "$seconds" = 0 ]; then exit 0; fi

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
  for program in build/fuzz/bin/fuzz_*; do names+=("${program##*/fuzz_}"); done
fi
findings=()
mkdir -p build/fuzz/findings
for name in "${names[@]}"; do
  mkdir -p "build/fuzz/corpus/$name"
  echo "== $name: $seconds s"
  log=build/fuzz/findings/$name.log
  if ! "build/fuzz/bin/fuzz_$name" -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=10 \
    -print_final_stats=1 -artifact_prefix="build/fuzz/findings/$name-" \
    "build/fuzz/corpus/$name" "fuzz/corpus/$name" >"$log" 2>&1; then
    tail -n 60 "$log"
    findings+=("$name: $(grep -o "build/fuzz/findings/$name-[a-z0-9-]*" "$log" | tail -n 1 || true) ($log)")
  fi
  grep -E '^(stat::number_of_executed_units|stat::peak_rss_mb)|^Done ' "$log" || true
done
if [ ${#findings[@]} -gt 0 ]; then
  printf 'fuzz.sh: FOUND %s\n' "${findings[@]}" >&2
  exit 1
fi
