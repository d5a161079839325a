# Shared by the checks. Each is called as check_NAME.sh [ROOT]; ROOT is the tree to look at, this one by default.
# Every finding is one line "FILE:LINE: what is wrong" on stderr, and the check then exits with 1.
# shellcheck shell=bash
set -euo pipefail
export LC_ALL=C
# shellcheck disable=SC2034  # the checks read the tables that lie beside them
checks=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "${1:-$checks/../..}"

# The files of the tree, one a line: what git would commit, or all of them where there is no git repository.
list_files() {
  if command -v git >/dev/null && [ -e .git ]; then
    # Quoting off, and without files that are deleted but still in the index.
    git -c core.quotePath=off ls-files --cached --others --exclude-standard | while read -r file; do
      if [ -f "$file" ]; then echo "$file"; fi
    done
  else
    find . -type f -not -path './build/*' -not -path './.git/*' | sed 's|^\./||' | sort
  fi
}

# report TEXT: TEXT is the findings; nothing is found when it is empty.
report() {
  if [ -n "$1" ]; then
    printf '%s\n' "$1" >&2
    exit 1
  fi
}
