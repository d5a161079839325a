#!/usr/bin/env bash
# The layering: a room includes only rooms that rooms.txt gives it, and the rooms that read like their paper know no
# device, no instruction set and no conditional compilation.
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

mapfile -t files < <(list_files | grep -E '^(src|include)/.*\.(cpp|h|cu|cuh)$')
mapfile -t portable < <(printf '%s\n' "${files[@]}" | grep -E '^src/(models|nn|pipeline|diffusion|train)/' || true)
findings=$(
  awk -v table="$checks/rooms.txt" -f "$checks/rooms.awk" "$checks/rooms.txt" "${files[@]}"
  if [ ${#portable[@]} -gt 0 ]; then
    grep -HnE '^[ \t]*#[ \t]*(if|ifdef|ifndef|elif)\b' "${portable[@]}" | sed 's/$/   <- no conditional compilation here/' || true
    grep -HniE 'backend/(cpu|cuda)|\b(cuda|avx|avx2|avx512[a-z_]*|amx[a-z_]*|sse[0-9_]*|_mm[0-9]*_[a-z0-9_]*)\b' \
      "${portable[@]}" | sed 's/$/   <- no device and no instruction set here/' || true
  fi
  printf '%s\n' "${files[@]}" | grep -E '\.cuh?$' | grep -v '^src/backend/cuda/' |
    sed 's/$/:1: kernels live in src\/backend\/cuda/' || true
)
report "$findings"
