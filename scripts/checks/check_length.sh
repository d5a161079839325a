#!/usr/bin/env bash
# No file of ours is longer than 600 lines, unless long_files.txt says why.
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

findings=
while read -r file; do
  lines=$(wc -l <"$file")
  if [ "$lines" -le 600 ] || awk -v f="$file" '$1 == f && NF > 1 { found = 1 } END { exit !found }' "$checks/long_files.txt"; then
    continue
  fi
  findings+="$file:$lines: longer than 600 lines; split it, or give the reason in scripts/checks/long_files.txt"$'\n'
done < <(list_files | grep -E '(\.(cpp|h|cu|cuh|py|sh|awk|cmake|md|txt)|/run)$')
report "${findings%$'\n'}"
