#!/usr/bin/env bash
# Packs test programs for a GPU machine that has neither this checkout nor its libraries.
#
#   tools/bundle_tests.sh OUTDIR [-d FOLDER]... [-m] PROGRAM[=FILTER]...
#
# makes OUTDIR/bundle.tar.xz (stripped programs of build/release/bin, libraedit_cuda.so, the shared libraries they need
# but for the C library, the driver and cuBLASLt, which a GPU machine has), OUTDIR/data.tar.xz (-d: folders of
# tests/parity/data, -m: models/emoji64; made again only when they changed) and OUTDIR/run.sh. Run it again after every
# build; BUILD names another build folder. On the GPU machine:
#
#   OUT=FOLDER bash OUTDIR/run.sh               all tests of the bundle; full logs in FOLDER, failures on the terminal
#   FILTER='*norm*' bash OUTDIR/run.sh          some of them
#   SAN=1 [SAN_TOOL=memcheck] bash OUTDIR/run.sh   then again under compute-sanitizer: SAN_FILTER, by default what runs
#                                               every op forward and back without finite differences
#   bash OUTDIR/run.sh raedit generate ...      any one program of the bundle, with its libraries
#
# Folders that the bundle lacks are taken from tests/parity/data and models below the current folder, if they are there.
# For example:
#   tools/bundle_tests.sh .dev/ops op_tests
#   tools/bundle_tests.sh .dev/parity -d transformer -d autoencoder -d pipeline -d extra parity_transformer \
#       parity_autoencoder 'parity_pipeline=-BundledModel.*' 'unit_models=PipelineRun.*'
#   tools/bundle_tests.sh .dev/model -m -d emoji64 'parity_pipeline=BundledModel.*' raedit
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${BUILD:-$root/build/release}
[ $# -ge 2 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | sed '/^set/d' >&2; exit 2; }
mkdir -p "$1" && out=$(cd "$1" && pwd) && shift

data=()
tests=()
programs=()
while [ $# -gt 0 ]; do
  case $1 in
    -d) data+=("tests/parity/data/$2") && shift ;;
    -m) data+=("models/emoji64") ;;
    *)
      programs+=("${1%%=*}")
      [ "${1%%=*}" = raedit ] || tests+=("$1")
      ;;
  esac
  shift
done

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
mkdir "$staging/bin" "$staging/lib" "$staging/lib-base"
for program in "${programs[@]}"; do
  strip -o "$staging/bin/$program" "$build/bin/$program"
done
plugin=$build/lib/libraedit_cuda.so
if [ -e "$plugin" ]; then
  strip --strip-unneeded -o "$staging/lib/libraedit_cuda.so" "$plugin"
else
  echo "note: $plugin is not built; the bundle is without it" >&2
fi

# The plugin takes only programs of its own build.
build_of() { grep -aoE '[0-9]+\.[0-9]+\.[0-9]+-[0-9a-f]{12}' "$1" | head -n 1 || true; }
for program in "${programs[@]}"; do
  [ ! -e "$plugin" ] || [ "$(build_of "$build/bin/$program")" = "$(build_of "$plugin")" ] || {
    echo "$program ($(build_of "$build/bin/$program")) and $plugin ($(build_of "$plugin")) are of different builds:" \
      "build both first" >&2
    exit 1
  }
done

# name => file of everything that is loaded; lib-base is for machines whose own compiler libraries are missing.
find "$staging/bin" "$staging/lib" -type f -exec ldd {} + | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' | sort -u |
  while read -r name file; do
    case $name in
      libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | libresolv.so.* | ld-linux* | libcuda.so.* | libcublas*) ;;
      libstdc++.so.* | libgcc_s.so.* | libgomp.so.*) cp -L "$file" "$staging/lib-base/$name" ;;
      *) cp -L "$file" "$staging/lib/$name" ;;
    esac
  done
cp "$root/tools/run_test_groups.py" "$staging/"

tar -C "$staging" --owner=0 --group=0 -cf - . | xz -T2 -6 >"$out/bundle.tar.xz"

if [ ${#data[@]} -eq 0 ]; then
  rm -f "$out/data.tar.xz"
elif [ "$(cat "$out/.data" 2>/dev/null)" != "${data[*]}" ] ||
  [ -n "$(cd "$root" && find "${data[@]}" -newer "$out/data.tar.xz" -print -quit)" ]; then
  tar -C "$root" --owner=0 --group=0 -cf - "${data[@]}" | xz -T2 -9 >"$out/data.tar.xz"
  echo "${data[*]}" >"$out/.data"
fi

{
  echo '#!/usr/bin/env bash'
  echo "# Made by tools/bundle_tests.sh, which says how to use it."
  printf 'root=%q\ntests=(' "$root"
  [ ${#tests[@]} -eq 0 ] || printf '%q ' "${tests[@]}"
  echo ')'
  cat <<'RUN'
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
b=${BUNDLE_FOLDER:-$(mktemp -d)}
out=${OUT:-$b/out}
mkdir -p "$b" "$out"
tar -xJf "$here/bundle.tar.xz" -C "$b" || exit
[ ! -e "$here/data.tar.xz" ] || tar -xJf "$here/data.tar.xz" -C "$b" || exit

# The programs look for their data where they were built.
for folder in "$b"/tests/parity/data/* "$PWD"/tests/parity/data/* "$b"/models/* "$PWD"/models/*; do
  [ -e "$folder" ] || continue
  below=${folder#"$b"/}
  place=$root/${below#"$PWD"/}
  [ -e "$place" ] || { mkdir -p "$(dirname "$place")" && ln -sfn "$folder" "$place"; }
done

libraries=$b/lib
# A newer libstdc++ is the better one: the driver's own libraries may want it.
ldconfig -p | grep -q 'libgomp\.so\.1' && ldconfig -p | grep -q 'libstdc++\.so\.6' || libraries+=:$b/lib-base
if ! ldconfig -p | grep -q 'libcublasLt\.so\.13'; then
  found=$(ls -d /usr/local/cuda*/lib64 /usr/local/cuda*/targets/x86_64-linux/lib /usr/local/cuda*/lib \
    "$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)"/nvidia/*/lib 2>/dev/null |
    while read -r folder; do [ ! -e "$folder/libcublasLt.so.13" ] || { echo "$folder" && break; }; done)
  [ -n "$found" ] || found=$(find / -xdev -name libcublasLt.so.13 -not -path '/proc/*' -printf '%h\n' -quit 2>/dev/null)
  [ -n "$found" ] && libraries+=:$found || echo "note: no libcublasLt.so.13 here" >&2
fi
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ ! -e "$b/lib/libraedit_cuda.so" ] || export RAEDIT_CUDA_LIBRARY=$b/lib/libraedit_cuda.so
export RAEDIT_TEST_DEVICE=${RAEDIT_TEST_DEVICE:-cuda} PATH=$b/bin:$PATH

if [ $# -gt 0 ]; then
  exec "$@"
fi
nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used,clocks.sm --format=csv,noheader || true
run() { # LIMIT ARGUMENTS...
  timeout -k 5 $(($1 + 15)) python3 "$b/run_test_groups.py" --limit "$@" --only "${FILTER:-}"
}
status=0
run "${LIMIT:-240}" --log "$out/tests.log" "${tests[@]/#/$b/bin/}" || status=$?
if [ "${SAN:-0}" = 1 ]; then
  tool=${SAN_TOOL:-memcheck}
  only=${SAN_FILTER:-*OpTable.ThreadsDoNotMatter*:*Sentinel*:*OpEdges*:*AgreesInFloat32*:*EveryGradient*:*EncodeAndDecode*}
  FILTER=$only run "${SAN_LIMIT:-240}" --log "$out/$tool.log" --under \
    "compute-sanitizer --tool $tool --error-exitcode 9 --print-limit 10" "${tests[@]/#/$b/bin/}" || status=$?
fi
exit $status
RUN
} >"$out/run.sh"
chmod +x "$out/run.sh"
du -b "$out"/* | awk '{ printf "%10.2f MB  %s\n", $1 / 1e6, $2 }'
