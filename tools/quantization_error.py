"""How far a model's velocity lies from float32's in bfloat16 and with 8-bit matrices, calibrated and not.

    python tools/quantization_error.py MODEL [--raedit build/release/bin/raedit] [--class-ids 3 207]
        [--sheet SHEET.png]

MODEL is a folder. One Euler step from noise x to data is x - v, so `raedit generate --steps 1 --output-type latent` from
given noise has the velocity v in it; printed is |v - v of float32| / |v of float32| (Euclidean norms, over all pictures).
The calibration is made on the way. --sheet draws the same eight pictures in 25 steps with guidance 3: float32, int8 and
calibrated int8 in a row each, and prints how far the last two are from the first; that needs PIL.
"""

import argparse
import json
import os
import struct
import subprocess
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
INT8 = ["--quantize", "int8"]


def write_noise(path, model, count):
    with open(os.path.join(model, "transformer", "config.json")) as file:
        config = json.load(file)
    shape = (count, config["in_channels"], config["sample_size"], config["sample_size"])
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    header = json.dumps({"latents": {"dtype": "F32", "shape": shape, "data_offsets": [0, noise.nbytes]}}).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + noise.tobytes())
    return noise.astype(np.float64)


def draw_sheet(args, calibration, folder):
    from PIL import Image

    rows = []
    for options in ([], INT8, [*INT8, "--calibration", calibration]):
        path = os.path.join(folder, "pictures.npy")
        subprocess.run([args.raedit, "generate", "--model", args.model, "--count", "8", "--steps", "25", "--guidance", "3",
                        "--quiet", "--output", path, *options], check=True)
        rows.append(np.load(path).astype(np.float64))
    for name, pictures in (("int8", rows[1]), ("int8, calibrated", rows[2])):
        print(f"{name}: mean difference of pixels {np.abs(pictures - rows[0]).mean():.4f}")
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    Image.fromarray(np.rint(sheet * 255).clip(0, 255).astype(np.uint8)).save(args.sheet, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--raedit", default=os.path.join(HERE, "..", "build", "release", "bin", "raedit"))
    parser.add_argument("--class-ids", type=int, nargs="+", default=[3, 207])
    parser.add_argument("--calibration-pictures", type=int, default=4)
    parser.add_argument("--calibration-steps", type=int, default=4)
    parser.add_argument("--sheet", default="")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        calibration = os.path.join(folder, "calibration.safetensors")
        start = os.path.join(folder, "noise.safetensors")
        noise = write_noise(start, args.model, len(args.class_ids))

        def velocity(options):
            path = os.path.join(folder, "latents.npy")
            classes = [word for label in args.class_ids for word in ("--class-id", str(label))]
            subprocess.run([args.raedit, "generate", "--model", args.model, *classes, "--steps", "1", "--quiet",
                            "--latents", start, "--output-type", "latent", "--output", path, *options], check=True)
            return noise - np.load(path)

        subprocess.run([args.raedit, "calibrate", "--model", args.model, "--output", calibration, "--pictures",
                        str(args.calibration_pictures), "--steps", str(args.calibration_steps)], check=True)
        expected = velocity([])
        for options in (["--dtype", "bfloat16"], INT8, [*INT8, "--calibration", calibration],
                        [*INT8, "--dtype", "bfloat16"], [*INT8, "--dtype", "bfloat16", "--calibration", calibration]):
            name = " ".join("FILE" if option == calibration else option for option in options)
            error = np.linalg.norm(velocity(options) - expected) / np.linalg.norm(expected)
            print(f"{name:60} {error:.5f}", flush=True)
        if args.sheet:
            draw_sheet(args, calibration, folder)


if __name__ == "__main__":
    main()
