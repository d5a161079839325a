#!/usr/bin/env bash
# From nothing but pictures and the bundled autoencoder to a transformer that draws emoji.
#
#   scripts/train_emoji.sh         eight classes, a small transformer, at most 30 minutes on two CPU cores
#   scripts/train_emoji.sh full    all 99 classes, the size of models/emoji64: for a GPU (RAEDIT_DEVICE=cuda)
#
# Writes train-emoji/ (RAEDIT_OUTPUT: another folder): checkpoints, metrics.jsonl, TensorBoard's logs, pictures along
# the way, and at last a pipeline and samples.png drawn by it. Started again, it goes on where it was stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

size=${1:-small}
device=${RAEDIT_DEVICE:-cpu}
output=${RAEDIT_OUTPUT:-train-emoji}
case $size in
  small)
    classes=(arrow cat-face drink face-smiling food-fruit heart keycap plant-flower)
    run=(--encoder-hidden-size 256 --decoder-hidden-size 256 --encoder-num-layers 4 --decoder-num-layers 2
      --encoder-num-attention-heads 4 --decoder-num-attention-heads 4
      --train-batch-size 32 --max-train-steps 5000 --learning-rate 1e-3 --lr-warmup-steps 100
      --validation-steps 500 --checkpointing-steps 500)
    for class in "${classes[@]}"; do run+=(--classes "$class"); done
    ;;
  full)
    classes=(cat-face face-smiling heart food-fruit animal-mammal plant-flower sky-and-weather transport-ground)
    run=(--encoder-hidden-size 256 --decoder-hidden-size 256 --encoder-num-layers 6 --decoder-num-layers 2
      --encoder-num-attention-heads 4 --decoder-num-attention-heads 4
      --train-batch-size 768 --max-train-steps 17000 --learning-rate 8e-4 --lr-warmup-steps 500
      --validation-steps 1000 --checkpointing-steps 1000)
    ;;
  *)
    echo "usage: scripts/train_emoji.sh [small|full]" >&2
    exit 2
    ;;
esac

scripts/install_packages.sh
scripts/build.sh bin/raedit

build/release/bin/raedit train stage2 "${run[@]}" \
  --train-data-dir data/emoji64/emoji64.tar --pretrained-rae-model-name-or-path models/emoji64 \
  --center-crop --cache-latents "$output/latents" --output-dir "$output" --resume latest \
  --mixed-precision bf16 --device "$device" --seed 0 \
  --lr-scheduler cosine --adam-beta2 0.95 --ema-decay 0.999 --ema-warmup \
  --logging-steps 25 --checkpoints-total-limit 2 \
  --validation-class-label 1 --validation-class-label 5 --num-validation-images 4 --validation-guidance-scale 2

labels=()
for class in "${classes[@]}"; do labels+=(--label "$class"); done
build/release/bin/raedit generate --model "$output" "${labels[@]}" --count 6 --steps 25 --guidance 2 --seed 0 --grid 6 \
  --device "$device" --output "$output/samples.png"
