"""What reusing the encoder stream costs in pictures and saves in time: `raedit generate --encoder-reuse` by turns.

    python tools/compare_encoder_reuse.py MODEL STEPS:REUSE STEPS:REUSE ... [--classes 13,31] [--count 4] [--seed 0]
        [--guidance 1] [--dtype float32] [--rounds 3] [--find-seed 1000] [--raedit build/release/bin/raedit]
        [--sheet SHEET.png]

The first variant is what the others are compared with: "50:1 50:2 50:0,1,2,5,9 25:1" is 50 steps without reuse, beside every
second step, a list, and half the steps. "50:found9" is the list of 9 steps that `raedit reuse` finds on pictures of other
seeds (--find-seed). Each round runs every variant once; the median of the sampling times counts. Differences are of the
8-bit pictures. The sheet has a row for each variant, a column for each class (its first picture).
Needs numpy, and Pillow for a sheet.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def find(args, variant):
    """The same variant, with the list that "found9" stands for."""
    steps, reuse = variant.split(":")
    if not reuse.startswith("found"):
        return variant
    command = [args.raedit, "reuse", "--model", args.model, "--steps", steps, "--passes", reuse[len("found") :],
               "--guidance", str(args.guidance), "--dtype", args.dtype, "--seed", str(args.find_seed), "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{variant} is {found['encoder_reuse']}, similarity {found['similarity']:.4f}; at even distance "
          f"({found['even']}) {found['even_similarity']:.4f}")
    return f"{steps}:{found['encoder_reuse']}"


def generate(args, variant, path):
    """Sampling time, encoder passes of a picture, pictures [N,H,W,3] of 8 bits."""
    steps, reuse = variant.split(":")
    command = [args.raedit, "generate", "--model", args.model, "--steps", steps, "--encoder-reuse", reuse, "--count",
               str(args.count), "--seed", str(args.seed), "--guidance", str(args.guidance), "--dtype", args.dtype,
               "--output", path, "--json", "--quiet"]
    for class_id in args.classes.split(","):
        command += ["--class-id", class_id]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    images = np.load(path)["images"]
    return report["seconds"]["sample"], report["encoder_passes"], np.round(images * 255).astype(np.int64)


def psnr(difference):
    mean_square = float(np.mean(difference.astype(np.float64) ** 2))
    return math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)


def write_sheet(path, rows):
    from PIL import Image

    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    Image.fromarray(sheet.astype(np.uint8)).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--classes", default="13,31")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--find-seed", type=int, default=1000)
    parser.add_argument("--raedit", default=os.path.join(HERE, "..", "build", "release", "bin", "raedit"))
    parser.add_argument("--sheet")
    args = parser.parse_args()

    lists = {variant: find(args, variant) for variant in args.variants}
    seconds, passes, pictures = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for variant in args.variants:
                took, passes[variant], pictures[variant] = generate(args, lists[variant],
                                                                        os.path.join(folder, "pictures.npz"))
                seconds.setdefault(variant, []).append(took)

    first = args.variants[0]
    base = statistics.median(seconds[first])
    print(f"{len(pictures[first])} pictures, {args.rounds} rounds; {first}: {base:.2f} s")
    print(f"{'steps:reuse':>16} {'passes':>6} {'speed-up':>8} {'mean |d|':>8} {'PSNR, dB':>8} {'lowest':>6}")
    for variant in args.variants:
        difference = pictures[variant] - pictures[first]
        each = [psnr(d) for d in difference]
        print(f"{variant:>16} {passes[variant]:6} {base / statistics.median(seconds[variant]):8.2f} "
              f"{np.abs(difference).mean():8.2f} {statistics.mean(each):8.1f} {min(each):6.1f}")
    if args.sheet:
        write_sheet(args.sheet, [pictures[variant][:: args.count] for variant in args.variants])


if __name__ == "__main__":
    main()
