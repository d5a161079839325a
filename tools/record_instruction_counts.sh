#!/usr/bin/env bash
# Builds the release program, counts the instructions of the three runs of tests/counts and writes
# tests/counts/record.txt anew. Takes about a minute; the record is committed with the change that moved the counts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/build.sh raedit_cli
tests/counts/instruction_counts.sh record build/release/bin/raedit tests/counts/record.txt
git --no-pager diff --stat -- tests/counts/record.txt || true
