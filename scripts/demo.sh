#!/usr/bin/env bash
# From a bare Debian 12 to emoji.png: installs what is missing, builds the program, draws with the bundled model.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/install_packages.sh
scripts/build.sh bin/raedit

labels=(cat-face face-smiling heart food-fruit animal-mammal plant-flower sky-and-weather transport-ground)
arguments=()
for label in "${labels[@]}"; do arguments+=(--label "$label"); done

start=$(date +%s%N)
build/release/bin/raedit generate "${arguments[@]}" --count 4 --steps 25 --guidance 3 --seed 0 --grid 8 --output emoji.png
milliseconds=$((($(date +%s%N) - start) / 1000000))
printf '%s: %d pictures in %d.%02d seconds\n' "$PWD/emoji.png" $((4 * ${#labels[@]})) \
  $((milliseconds / 1000)) $((milliseconds % 1000 / 10))
