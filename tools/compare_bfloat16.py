"""What bfloat16 costs: the same pictures from the same noise in float32 and in bfloat16, by raedit and by the reference.

    python tools/compare_bfloat16.py [MODEL] [--pictures 16] [--steps 25] [--guidance 1] [--seed 0]
                                     [--raedit build/release/bin/raedit] [--threads 2]

Prints the mean and the largest difference of pixels in [0,1] between each program's bfloat16 and its own float32, and how far
the two float32 lie apart. Exit 1 when raedit's mean difference is larger than PyTorch's. Classes go round the model's.
PYTHONPATH: see reference.py.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import reference
import torch
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
DTYPES = ("float32", "bfloat16")


def reference_pictures(args, noise, labels, dtype):
    pipeline = reference.load_pipeline(args.model, getattr(torch, dtype))
    batches = [pipeline(labels[at:at + 8], latents=noise[at:at + 8], num_inference_steps=args.steps,
                        guidance_scale=args.guidance, output_type="pt").images.float()
               for at in range(0, len(labels), 8)]
    return torch.cat(batches)


def raedit_pictures(args, noise, labels, dtype):
    """One run a picture: classes and noise go together by position."""
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        start, out = os.path.join(folder, "noise.safetensors"), os.path.join(folder, "out.safetensors")
        for k, label in enumerate(labels):
            save_file({"latents": noise[k:k + 1].contiguous()}, start)
            subprocess.run([args.raedit, "generate", "--model", args.model, "--class-id", str(label), "--latents", start,
                            "--steps", str(args.steps), "--guidance", str(args.guidance), "--dtype", dtype,
                            "--threads", str(args.threads), "--output", out, "--quiet"], check=True)
            pictures.append(load_file(out)["images"])
    return torch.cat(pictures)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=os.path.join(HERE, "..", "models", "emoji64"))
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--raedit", default=os.path.join(HERE, "..", "build", "release", "bin", "raedit"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    config = reference.load_pipeline(args.model).transformer.config
    shape = (args.pictures, config.in_channels, config.sample_size, config.sample_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(args.seed))
    labels = [k * 7 % config.num_classes for k in range(args.pictures)]
    theirs, ours = ({dtype: make(args, noise, labels, dtype) for dtype in DTYPES}
                    for make in (reference_pictures, raedit_pictures))
    mean = {}
    rows = {"raedit": (ours["bfloat16"], ours["float32"]), "PyTorch": (theirs["bfloat16"], theirs["float32"]),
            "float32 of both": (ours["float32"], theirs["float32"])}
    print(f"{args.pictures} pictures, {args.steps} steps: {'mean':>10} {'max':>8} {'worst picture':>14}")
    for name, (a, b) in rows.items():
        difference = (a - b).abs()
        mean[name] = difference.mean().item()
        print(f"{name:24} {mean[name]:10.3g} {difference.max():8.3g} {difference.mean(dim=(1, 2, 3)).max():14.3g}")
    return 0 if mean["raedit"] <= mean["PyTorch"] else 1


if __name__ == "__main__":
    sys.exit(main())
