#!/usr/bin/env bash
# Counts the instructions of three fixed small runs and holds them against a record:
#
#   instruction_counts.sh count PROGRAM RUN             runs PROGRAM (raedit) under callgrind and prints the count
#   instruction_counts.sh compare RUN COUNT RECORD      fails when COUNT is more than 3% off what RECORD says
#   instruction_counts.sh check PROGRAM RUN RECORD      both
#   instruction_counts.sh record PROGRAM RECORD         counts all runs and writes RECORD
#   instruction_counts.sh own FILE OBJECT               sums what a file of callgrind's says of one program or library
#
# A count says nothing about time, but unlike time it is the same on a busy machine, so a loop that lost its vectors or
# a copy that crept in shows at once. Equal on every machine:
# - Counted is what the program's own code executes. Dynamic linking, malloc, memcpy (which glibc chooses by the
#   processor) and Highway's look at the timer are the libraries' and change with their versions.
# - Valgrind shows every program the same processor, which has AVX2 and FMA and nothing later; RAEDIT_FORCE_ISA says so
#   too. With sse2 our kernels run one number at a time, which nobody's machine does.
# - One thread, no variables of the user's, one locale, the same relative paths, files below one scratch folder.
# - The compiler is a part of the record; CMakeLists.txt registers the tests for that one alone.
# The models are small, because valgrind takes a fused multiply-add apart in software: 0.3 microseconds each. So all
# kinds of kernels weigh something in the sum, where in a large model it would be the matrix product alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

runs="generate guided-bfloat16 train"
most_percent=3
model=tests/parity/data/pipeline

fail() {
  echo "instruction counts: $*" >&2
  exit 1
}

# arguments RUN FOLDER: the words after the program's name, one a line.
arguments() {
  case $1 in
    generate) # 8 pictures with decoding, float32
      printf '%s\n' generate --model $model --class-id 3 --count 8 --steps 6 --output "$2/pictures.npy" ;;
    guided-bfloat16) # 4 pictures with guidance, bfloat16
      printf '%s\n' generate --model $model --class-id 3 --count 4 --steps 6 --guidance 3 --dtype bfloat16 \
        --output "$2/pictures.npy" ;;
    train) # 2 steps on pictures that the encoder sees, float32, with a checkpoint and the pipeline at the end
      printf '%s\n' train stage2 --train-data-dir data/emoji64-new --pretrained-rae-model-name-or-path $model \
        --center-crop --encoder-hidden-size 64 --decoder-hidden-size 96 --encoder-num-layers 2 --decoder-num-layers 1 \
        --encoder-num-attention-heads 4 --decoder-num-attention-heads 4 --seed 3 --train-batch-size 4 \
        --max-train-steps 2 --dataloader-num-workers 0 --output-dir "$2/run" ;;
    *) fail "no run is called '$1' (there are: $runs)" ;;
  esac
}

# Sums what callgrind says of one object, without what its callees cost: in the file's uncompressed form a line of cost
# is "LINE COUNT", and the one after calls= belongs to the callee.
own_instructions() { # FILE OBJECT
  awk -v object="$2" '
    /^ob=/ { own = substr($0, 4) == object; next }
    /^calls=/ { callee = 1; next }
    /^[0-9]/ { if (!callee && own) sum += $2; callee = 0 }
    END { if (!sum) exit 1; printf "%.0f\n", sum }' "$1" || fail "callgrind has nothing to say about $2"
}

count() { # PROGRAM RUN
  arguments "$2" . >/dev/null
  command -v valgrind >/dev/null || fail "valgrind is missing; scripts/install_packages.sh installs it"
  if ! grep -qw avx2 /proc/cpuinfo; then
    echo "instruction counts: skipped, this processor has no AVX2" >&2
    exit 77
  fi
  local program scratch words
  program=$(realpath -e "$1") || exit 1
  scratch=$(mktemp -d) || exit 1
  # shellcheck disable=SC2064
  trap "rm -rf '$scratch'" EXIT
  mapfile -t words < <(arguments "$2" "$scratch")
  if ! env -i PATH=/usr/bin:/bin LC_ALL=C OMP_NUM_THREADS=1 RAEDIT_FORCE_ISA=avx2 \
    valgrind --tool=callgrind --callgrind-out-file="$scratch/callgrind" --compress-strings=no --compress-pos=no \
    "$program" "${words[@]}" --threads 1 --quiet >"$scratch/output" 2>&1; then
    cat "$scratch/output" >&2
    fail "the run '$2' failed under valgrind"
  fi
  own_instructions "$scratch/callgrind" "$program"
}

compare() { # RUN COUNT RECORD
  local recorded hint
  hint="If that is meant, run tools/record_instruction_counts.sh and commit tests/counts/record.txt with the change,
saying in the message why."
  recorded=$(awk -v run="$1" '$1 == run { print $2 }' "$3")
  [[ $recorded =~ ^[1-9][0-9]*$ ]] || fail "$3 has not one count of '$1'. $hint"
  [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "'$2' is no count"
  local change
  change=$(awk -v now="$2" -v then="$recorded" 'BEGIN { printf "%+.2f%%", (now / then - 1) * 100 }')
  echo "$1: $2 instructions, $change of the recorded $recorded"
  # Whole numbers: the limit is exact.
  if [ $(($2 * 100)) -gt $((recorded * (100 + most_percent))) ]; then
    fail "'$1' grew by more than $most_percent%. $hint"
  fi
  # A stale record would let the next change grow back to it unseen.
  if [ $(($2 * 100)) -lt $((recorded * (100 - most_percent))) ]; then
    fail "'$1' fell by more than $most_percent%: the record is stale. $hint"
  fi
}

record() { # PROGRAM RECORD
  local run counted lines=""
  for run in $runs; do
    counted=$(count "$1" "$run") || exit
    lines+="$run $counted"$'\n'
    echo "$run $counted"
  done
  {
    echo "# Instructions of the program's own code in the runs of instruction_counts.sh, Release, g++ of Debian 12, avx2."
    echo "# Written by tools/record_instruction_counts.sh."
    printf '%s' "$lines"
  } >"$2"
}

case "${1:-} $#" in
  "count 3") count "$2" "$3" ;;
  "compare 4") compare "$2" "$3" "$4" ;;
  "check 4")
    counted=$(count "$2" "$3") || exit
    compare "$3" "$counted" "$4"
    ;;
  "own 3") own_instructions "$2" "$3" ;;
  "record 3") record "$2" "$3" ;;
  *) fail "usage: see the head of $0" ;;
esac
