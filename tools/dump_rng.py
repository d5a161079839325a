"""Draw from torch's CPU generator: tests/parity/data/rng/torch_2_15.safetensors, named after the version that ran.

    python tools/dump_rng.py [--out tests/parity/data/rng]

Ran with torch 2.15.0 (the version is in the file's metadata). It matters for bfloat16 alone: up to 2.11 torch drew
bfloat16 from 8-bit uniforms, and torch_2_11.safetensors holds what it drew. The names say what was drawn: KIND.seedS.nCOUNT each from a fresh generator, and sequence.seedS.*
one after the other from a single one.
"""

import argparse
import os

import torch
from safetensors.torch import save_file

SEEDS = [0, 42, 2**40 + 5]  # torch keeps 32 bits of the last
SIZES = [1, 5, 15, 16, 17, 20, 31, 32, 100, 1000, 12288]


def fresh(seed):
    return torch.Generator("cpu").manual_seed(seed)


def draw(seed):
    tensors = {}
    for n in SIZES:
        tensors[f"randn.seed{seed}.n{n}"] = torch.randn(n, generator=fresh(seed))
    for n in (9, 32, 40):
        tensors[f"randn_bf16.seed{seed}.n{n}"] = torch.randn(n, generator=fresh(seed), dtype=torch.bfloat16)
    for n in (9, 20):
        tensors[f"randn_f64.seed{seed}.n{n}"] = torch.randn(n, generator=fresh(seed), dtype=torch.float64)
    tensors[f"rand_bf16.seed{seed}.n600"] = torch.rand(600, generator=fresh(seed), dtype=torch.bfloat16)
    tensors[f"rand_f64.seed{seed}.n20"] = torch.rand(20, generator=fresh(seed), dtype=torch.float64)

    one = fresh(seed)
    sequence = f"sequence.seed{seed}"
    tensors[f"{sequence}.randn7"] = torch.randn(7, generator=one)  # odd: a normal is kept for the next scalar draw
    tensors[f"{sequence}.then_rand9"] = torch.rand(9, generator=one)
    tensors[f"{sequence}.then_randn40"] = torch.randn(40, generator=one)
    tensors[f"{sequence}.then_randint100_11"] = torch.randint(0, 100, (11,), generator=one)
    tensors[f"{sequence}.then_randperm13"] = torch.randperm(13, generator=one)
    tensors[f"{sequence}.then_randn_bf16_40"] = torch.randn(40, generator=one, dtype=torch.bfloat16)
    tensors[f"{sequence}.then_randn3"] = torch.randn(3, generator=one)  # begins with the kept one
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(os.path.dirname(__file__), "..", "tests", "parity", "data", "rng"))
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    tensors = {name: tensor for seed in SEEDS for name, tensor in draw(seed).items()}
    version = torch.__version__.split("+")[0]
    name = "torch_" + "_".join(version.split(".")[:2]) + ".safetensors"
    save_file(tensors, os.path.join(args.out, name), {"torch": version})


if __name__ == "__main__":
    main()
