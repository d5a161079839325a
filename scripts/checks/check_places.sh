#!/usr/bin/env bash
# Nothing that is committed names a folder or a host of the machine it was written on.
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The bracketed letters keep these patterns from matching themselves.
folders='(^|[^A-Za-z0-9_.}])/([w]ork|[r]oot|[h]ome|[U]sers|[o]pt)/|/[t]mp/raedit'
hosts='[a-z0-9-]+\.([p]kg\.dev|[i]nternal|[a]rtifactory|[c]orp)\b'
report "$(list_files | tr '\n' '\0' | xargs -0 grep -HnIE "$folders|$hosts" || true)"
