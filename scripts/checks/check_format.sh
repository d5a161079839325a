#!/usr/bin/env bash
# C++ is formatted as clang-format 14 does with .clang-format. Another version formats differently, so it must be 14.
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if ! command -v clang-format-14 >/dev/null; then
  report "check_format.sh: clang-format-14 is not installed (scripts/install_packages.sh)"
fi
files=$(list_files | grep -E '\.(cpp|h|cu|cuh)$' || true)
if [ -n "$files" ]; then
  tr '\n' '\0' <<<"$files" | xargs -0 clang-format-14 --dry-run --Werror "--style=file:$checks/../../.clang-format"
fi
