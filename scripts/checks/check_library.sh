#!/usr/bin/env bash
# The library never ends the process and never prints: src/ and include/ name nothing that does. (assert is for our own
# mistakes and allowed.)
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

calls='\b(abort|exit|_exit|_Exit|quick_exit|terminate|HWY_ABORT|HWY_ASSERT)[[:space:]]*\('
prints='\b(printf|fprintf|vprintf|vfprintf|puts|fputs|putchar|perror)[[:space:]]*\(|\bstd::(cout|cerr|clog|print|println)\b|\bfmt::print'
mapfile -t files < <(list_files | grep -E '^(src|include)/.*\.(cpp|h|cu|cuh)$')
# Comments may name them.
report "$(awk '{ code = $0; sub(/\/\/.*/, "", code) }
  code ~ /^[ \t]*$/ { next }
  { print FILENAME ":" FNR ": " code }' "${files[@]}" | grep -E "$calls|$prints" || true)"
