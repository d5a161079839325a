#!/usr/bin/env bash
# Runs every static check of scripts/checks on the source tree; fails when one does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=0
for check in scripts/checks/check_*.sh; do
  if "$check"; then
    echo "ok      $check"
  else
    echo "FAILED  $check" >&2
    failed=1
  fi
done
exit $failed
