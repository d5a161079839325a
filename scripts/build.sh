#!/usr/bin/env bash
# build.sh [TARGET...]: the release build in build/release; everything, or only the named Ninja targets.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ ! -f build/release/build.ninja ]; then # from then on Ninja itself runs CMake again when it has to
  cmake --preset release
fi
cmake --build build/release --parallel "$(nproc)" ${1:+--target "$@"}
