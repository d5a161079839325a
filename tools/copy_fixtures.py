"""Copy the reference fixtures that the parity tests need into tests/parity/data, and make the big ones smaller.

    python tools/copy_fixtures.py FIXTURES [--emoji REFERENCE.safetensors] [--out tests/parity/data]

FIXTURES is a folder written by the reference code on a CPU in float32 (its versions.json is copied along):
torch 2.11.0, transformers 5.17.0, diffusers PR 13231 at head e3d065493c, upstream bytetriper/RAE at a4d18c4.

Nothing is changed, only left out: gradients that another variant proves already (see REDUCED). What was left out stands
in the file's metadata under "left_out". autoencoder/mae and autoencoder/siglip2 are not copied: dump_reference.py --encoder
writes them with one encoder layer instead of two, because each is 3072 wide.
"""

import argparse
import json
import os
import re
import shutil

import safetensors_raw as st

TREES = ["transformer", "autoencoder/dinov2", "autoencoder/dinov2_tokens", "pipeline", "scheduler", "training"]
FILES = ["upstream_stage2/config.yaml", "upstream_stage2/stage2_model.pt", "upstream_stage2/io.safetensors"]

# Variants whose backward pass has no path of its own, or too much of it: of their gradients, those of small tensors stay (all
# biases, norms, and the 32x32 and 64x64 matrices), the input's, and what KEEP names. `base` and its like keep every gradient.
REDUCED = ["grid_16", "grid_32", "head_72_128", "no_null_class", "no_pos_embed", "no_rope"]
SMALL_GRADIENT = 4096  # elements
KEEP = {"head_72_128": r"grad\.(blocks\.1\.attn\..*|blocks\.2\.attn\.to_(q|out\.0)\..*)"}


def stays(variant, name, shape):
    if variant not in REDUCED or not name.startswith("grad.") or name == "grad.hidden_states":
        return True
    count = 1
    for side in shape:
        count *= side
    return count <= SMALL_GRADIENT or bool(re.fullmatch(KEEP.get(variant, "(?!)"), name))


def copy_reduced(source, target, variant):
    reader = st.Reader(source)
    kept = {name: spec for name, spec in reader.tensors.items() if stays(variant, name, spec[1])}
    left_out = sorted(set(reader.tensors) - set(kept))
    if not left_out:
        shutil.copyfile(source, target)
        return
    metadata = dict(reader.metadata or {}, left_out=json.dumps(left_out))
    st.write(target, kept, reader.raw, metadata)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures")
    parser.add_argument("--emoji", help="reference.safetensors of the trained emoji model; dump_reference.py keeps its "
                        "inputs and replaces the outputs")
    parser.add_argument("--out", default=os.path.join(os.path.dirname(__file__), "..", "tests", "parity", "data"))
    args = parser.parse_args()

    for tree in TREES:
        for folder, _, files in os.walk(os.path.join(args.fixtures, tree)):
            target = os.path.join(args.out, os.path.relpath(folder, args.fixtures))
            os.makedirs(target, exist_ok=True)
            for name in files:
                source = os.path.join(folder, name)
                if tree == "transformer" and name == "io.safetensors":
                    copy_reduced(source, os.path.join(target, name), os.path.basename(folder))
                else:
                    shutil.copyfile(source, os.path.join(target, name))
    for name in FILES:
        os.makedirs(os.path.dirname(os.path.join(args.out, name)), exist_ok=True)
        shutil.copyfile(os.path.join(args.fixtures, name), os.path.join(args.out, name))
    shutil.copyfile(os.path.join(args.fixtures, "versions.json"), os.path.join(args.out, "versions.json"))
    if args.emoji:
        os.makedirs(os.path.join(args.out, "emoji64"), exist_ok=True)
        shutil.copyfile(args.emoji, os.path.join(args.out, "emoji64", "reference.safetensors"))

    total = sum(os.path.getsize(os.path.join(f, n)) for f, _, names in os.walk(args.out) for n in names)
    print(f"{args.out}: {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
