#!/usr/bin/env bash
# compare_test.sh: made-up counts and a made-up file of callgrind's, and what instruction_counts.sh makes of them.
set -euo pipefail
counts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/instruction_counts.sh
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
record=$scratch/record.txt
printf '# a comment\nsmall 100000\nlarge 3000000000000\ntwice 5\ntwice 5\nodd 12x\nempty\n' >"$record"

passes() { # RUN COUNT
  "$counts" compare "$1" "$2" "$record" >/dev/null || { echo "$1 with $2 should pass" >&2; exit 1; }
}

rejects() { # RUN COUNT TEXT...
  local output run=$1 count=$2
  shift 2
  if output=$("$counts" compare "$run" "$count" "$record" 2>&1); then
    echo "$run with $count should fail" >&2
    exit 1
  fi
  for text in "$@"; do
    grep -qF -- "$text" <<<"$output" || { printf 'it does not say "%s" but:\n%s\n' "$text" "$output" >&2; exit 1; }
  done
}

hint=tools/record_instruction_counts.sh
passes small 100000
passes small 102900
passes small 103000 # 3% is not more than 3%
rejects small 103001 "'small' grew by more than 3%" "$hint"
rejects small 103100 "+3.10%" "$hint"
passes small 97100
passes small 97000
rejects small 96900 "-3.10%" "the record is stale" "$hint"
passes large 3087000000000
rejects large 3093000000000 "grew by more than 3%"
for run in unknown twice odd empty '#'; do rejects "$run" 5 "has not one count of '$run'" "$hint"; done
rejects small "" "is no count"
rejects small 0 "is no count"
rejects small 10e4 "is no count"

# main of the program costs 7 + 2 + 40, of which 7 + 2 are its own; what it calls in the library counts there, and what
# the library calls back counts again for the program.
cat >"$scratch/callgrind" <<'END'
version: 1
events: Ir
ob=/a/raedit
fl=main.cpp
fn=main
0 7
cob=/lib/libc.so
cfn=sort
calls=1 0
0 40
fi=header.h
12 2

ob=/lib/libc.so
fn=sort
0 30
cob=/a/raedit
cfn=less
calls=5 0
0 10

ob=/a/raedit
fn=less
3 10
totals: 49
END
own=$("$counts" own "$scratch/callgrind" /a/raedit)
[ "$own" = 19 ] || { echo "own instructions of the program: $own, not 19" >&2; exit 1; }
own=$("$counts" own "$scratch/callgrind" /lib/libc.so)
[ "$own" = 30 ] || { echo "own instructions of the library: $own, not 30" >&2; exit 1; }
if "$counts" own "$scratch/callgrind" /a/other 2>"$scratch/error"; then
  echo "an object that is not there should be an error" >&2
  exit 1
fi
grep -q "nothing to say about /a/other" "$scratch/error"
if "$counts" count "$counts" other 2>"$scratch/error"; then
  echo "a run that is not there should be an error" >&2
  exit 1
fi
grep -q "no run is called 'other'" "$scratch/error"
