#!/usr/bin/env bash
# checks_test.sh CASE: writes a tree that breaks one rule and asserts that the check finds it, by name.
set -euo pipefail
checks=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../scripts/checks" && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

# put FILE: standard input becomes FILE in the tree.
put() {
  mkdir -p "$tree/$(dirname "$1")"
  cat >"$tree/$1"
}

# rejects CHECK TEXT...: the check fails and names every TEXT; without the broken file it passes.
rejects() {
  local check=$1 output
  shift
  if output=$("$checks/check_$check.sh" "$tree" 2>&1); then
    echo "check_$check.sh passes on a tree that breaks its rule" >&2
    exit 1
  fi
  for text in "$@"; do
    if ! grep -qF -- "$text" <<<"$output"; then
      printf 'check_%s.sh does not say "%s" but:\n%s\n' "$check" "$text" "$output" >&2
      exit 1
    fi
  done
}

# A tree that breaks nothing: every check must pass on it, so that a rejection is due to what a case adds.
put include/raedit/a.h <<<'#include <vector>'
put src/core/a.h <<<'#include "raedit/a.h"'
put src/nn/a.cpp <<<'#include "core/a.h"'
for check in "$checks"/check_*.sh; do "$check" "$tree"; done

case $1 in
  clean)
    # What only looks like a violation.
    put src/models/b.cpp <<<$'// cudamax, classes: no abort() here\nint exit_code(int fprintf_count);'
    put src/backend/cpu/b.cpp <<<$'#ifdef __AVX2__\n#include <immintrin.h>\n#endif'
    for check in "$checks"/check_*.sh; do "$check" "$tree"; done
    ;;
  format)
    put src/core/b.cpp <<<'int  f( ) {return 1 ;}'
    put src/backend/cuda/b.cu <<<'__global__ void  f( ) { }'
    put src/backend/cuda/c.cuh <<<'int  f( ) {return 1 ;}'
    rejects format src/core/b.cpp src/backend/cuda/b.cu src/backend/cuda/c.cuh
    ;;
  upward_include)
    put src/core/b.cpp <<<'#include "models/autoencoder_rae.h"'
    put src/models/b.cpp <<<'#include "backend/cpu/gemm.h"'
    rejects rooms src/core/b.cpp:1 "room 'core' may not include room 'models'" \
      src/models/b.cpp:1 "room 'models' may not include room 'backend/cpu'"
    ;;
  cuda)
    put src/backend/cuda/b.cu <<<$'#include <cuda_runtime.h>\n#include "ops/linear.h"\n#include <png.h>'
    put src/backend/cuda/c.cuh <<<'#include "backend/cpu/gemm.h"'
    put src/models/b.cu <<<'int twice();'
    put src/backend/cuda/d.cu <<<'void f() { printf("no"); }'
    rejects rooms "src/backend/cuda/b.cu:2: room 'backend/cuda' may not include room 'ops'" \
      "src/backend/cuda/b.cu:3: room 'backend/cuda' may not include png.h" \
      "src/backend/cuda/c.cuh:1: room 'backend/cuda' may not include room 'backend/cpu'" \
      "src/models/b.cu:1: kernels live in src/backend/cuda"
    rejects library src/backend/cuda/d.cu:1
    ;;
  library_header)
    put src/nn/b.cpp <<<$'#include <vector>\n#include <png.h>'
    put src/ops/b.cpp <<<'#include "hwy/highway.h"'
    put src/new_room/b.cpp <<<'#include "core/a.h"'
    rejects rooms "src/nn/b.cpp:2: room 'nn' may not include png.h" "src/ops/b.cpp:1: room 'ops' may not include hwy" \
      "room 'new_room' is not in"
    ;;
  public_header)
    put include/raedit/b.h <<<$'#include <string>\n#include <nlohmann/json.hpp>\n#include "core/a.h"'
    rejects rooms include/raedit/b.h:2 include/raedit/b.h:3
    ;;
  bare_header)
    put src/core/b.cpp <<<'#include "a.h"'
    rejects rooms src/core/b.cpp:1
    ;;
  conditional)
    put src/models/b.cpp <<<$'#ifdef NDEBUG\n#endif'
    rejects rooms src/models/b.cpp:1
    ;;
  instruction_set)
    put src/nn/b.cpp <<<'int avx512_width();'
    put src/nn/c.cpp <<<'// faster with AVX2'
    put src/pipeline/b.cpp <<<'bool cuda = false;'
    rejects rooms src/nn/b.cpp:1 src/nn/c.cpp:1 src/pipeline/b.cpp:1
    ;;
  exit)
    put src/io/b.cpp <<<$'void f() {\n  std::exit(1);\n  abort();\n}'
    put include/raedit/b.h <<<'inline void f() { std::terminate(); }'
    rejects library src/io/b.cpp:2 src/io/b.cpp:3 include/raedit/b.h:1
    ;;
  print)
    put src/io/b.cpp <<<$'void f() {\n  std::cout << 1;\n  fprintf(stderr, "no");\n  fmt::print("no");\n}'
    rejects library src/io/b.cpp:2 src/io/b.cpp:3 src/io/b.cpp:4
    ;;
  long_file)
    seq 601 | put src/core/b.cpp
    seq 600 | put src/core/c.cpp
    seq 601 | put src/backend/cuda/b.cu
    seq 602 | put src/backend/cuda/c.cuh
    rejects length src/core/b.cpp:601 src/backend/cuda/b.cu:601 src/backend/cuda/c.cuh:602
    ;;
  machine_folder)
    slash=/ # this file must pass the check itself
    put docs/a.md <<<"see ${slash}home${slash}somebody${slash}notes"
    put tools/a.py <<<"open('${slash}root${slash}x')"
    put docs/b.md <<<"https://mirror.example.${slash:+internal}/simple"
    rejects places docs/a.md:1 tools/a.py:1 docs/b.md:1
    ;;
  *)
    echo "no case named $1" >&2
    exit 2
    ;;
esac
