#!/usr/bin/env python3
"""Writes the torch archives that tests/io reads, beside those that came with the project (dtypes_and_views.pt and its
safetensors twin, stat.pt, truncated.pt, hostile_*). Development only; what wrote them is in versions.json.

    tools/make_torch_fixtures.py tests/io/data/torch
"""

import collections
import io
import json
import pathlib
import sys
import warnings
import zipfile

import torch
from safetensors.torch import save_file

warnings.filterwarnings("ignore")
out = pathlib.Path(sys.argv[1])
torch.manual_seed(13)


def dense(tensors):
    return {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}


def rezip(source, target, compression=zipfile.ZIP_STORED, zip64=False, change=lambda name, data: data):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            with new.open(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)) if compression == zipfile.ZIP_STORED else
                          name, "w", force_zip64=zip64) as entry:
                entry.write(change(name, old.read(name)))


views = torch.load(out / "dtypes_and_views.pt", weights_only=True)

# The same tensors in every packing; their twin is dtypes_and_views.safetensors.
torch.save(views, out / "views_legacy.pt", _use_new_zipfile_serialization=False)
torch.save(views, out / "views_legacy_protocol_4.pt", _use_new_zipfile_serialization=False, pickle_protocol=4)
for protocol in (1, 3, 4, 5):
    torch.save(views, out / f"views_protocol_{protocol}.pt", pickle_protocol=protocol)
rezip(out / "dtypes_and_views.pt", out / "views_deflated.pt", compression=zipfile.ZIP_DEFLATED)
rezip(out / "dtypes_and_views.pt", out / "views_misaligned.pt")
rezip(out / "dtypes_and_views.pt", out / "views_zip64.pt", zip64=True)

# What has no storage class of its own in torch.
wide = {
    "u16": torch.randint(0, 2**16, (3, 5), dtype=torch.int32).to(torch.uint16),
    "u32": torch.randint(0, 2**32, (4,), dtype=torch.int64).to(torch.uint32),
    "u64": torch.randint(0, 2**62, (4,), dtype=torch.int64).to(torch.uint64),
    "i16": torch.randint(-(2**15), 2**15, (7,), dtype=torch.int16),
    "i8": torch.randint(-128, 128, (9,), dtype=torch.int8),
    "e4m3": torch.randn(3, 3).to(torch.float8_e4m3fn),
    "e5m2": torch.randn(3, 3).to(torch.float8_e5m2).t(),
}
torch.save(wide, out / "wide.pt")
torch.save(wide, out / "wide_legacy.pt", _use_new_zipfile_serialization=False)
save_file(dense(wide), out / "wide.safetensors")

# A training checkpoint: a module's state dict with _metadata, parameters, and plain values of every kind.
module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
parameter = torch.nn.Parameter(torch.randn(2, 2))
parameter.note = "an attribute"
checkpoint = {
    "model": module.state_dict(),
    "ema": collections.OrderedDict(module.named_parameters()),
    "attribute": parameter,
    "epoch": 12,
    "negative": -70000,
    "large": 2**40,
    "huge": 2**100,
    "rate": 1e-6,
    "name": "größe",
    "flags": (True, False, None),
    "list": [1, [2.5, "three"]],
    "set": {4, 5},
    "frozen": frozenset({6}),
    "raw": b"\x00\xff\x80",
    "none": b"",
    "dtype": torch.bfloat16,
    "size": torch.Size([2, 3]),
    "device": torch.device("cpu"),
    7: "a key that is no string",
}
torch.save(checkpoint, out / "checkpoint.pt")
torch.save(checkpoint, out / "checkpoint_legacy.pt", _use_new_zipfile_serialization=False)
save_file(dense(module.state_dict()), out / "checkpoint_model.safetensors")

# Well-formed, and not to be read.
torch.save({"z": torch.randn(2, dtype=torch.complex64), "x": torch.randn(2)}, out / "complex.pt")
torch.save({"n": torch.randn(2, dtype=torch.complex64).conj().imag}, out / "negative.pt")
torch.save({"s": torch.eye(2).to_sparse()}, out / "sparse.pt")
torch.save({"loss": __import__("numpy").float64(0.5)}, out / "numpy_scalar.pt")
torch.save(module, out / "whole_module.pt")
torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.randn(1)), out / "torchscript.pt")
rezip(out / "stat.pt", out / "big_endian.pt", change=lambda name, data: b"big" if name.endswith("byteorder") else data)

versions = {"torch": torch.__version__, "python": sys.version.split()[0]}
(out / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
