"""Read and write safetensors files tensor by tensor, as raw bytes.

The `safetensors` package wants every tensor in memory at once and has no bfloat16 for numpy; the tools here copy, cast and
make files of several GB, so they stream. Format: 8-byte little-endian header length, JSON header, data without gaps.
"""

import json
import os
import struct

import numpy as np

ITEM_SIZE = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "I8": 1, "BOOL": 1}
NUMPY = {"F64": "<f8", "I64": "<i8", "F32": "<f4", "I32": "<i4", "F16": "<f2", "U8": "u1", "I8": "i1", "BOOL": "u1"}


# Stays float32 in a bfloat16 file: fixed tables (positions, rotary), statistics, and t_embedder.W, which is frozen and is
# multiplied by 2 pi t inside sin and cos, where bfloat16 would move the phase by up to 0.2.
FLOAT32_SUFFIXES = ("pos_embed", "freqs_cos", "freqs_sin", "encoder_mean", "encoder_std", "_latents_mean", "_latents_std")


def stored_dtype(name, dtype):
    """The dtype in which parameter or buffer `name` of a model file of `dtype` is stored."""
    return "F32" if name == "t_embedder.W" or name.endswith(FLOAT32_SUFFIXES) else dtype


class Reader:
    """The header of a file, and its tensors on demand. `tensors`: name -> (dtype, shape)."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length))
        self.metadata = header.pop("__metadata__", None)
        self._base = 8 + length
        self._offsets = {name: entry["data_offsets"] for name, entry in header.items()}
        self.tensors = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}

    def raw(self, name):
        begin, end = self._offsets[name]
        with open(self.path, "rb") as file:
            file.seek(self._base + begin)
            return file.read(end - begin)

    def array(self, name):
        """The tensor as numpy; bfloat16 is widened to float32 (exact)."""
        dtype, shape = self.tensors[name]
        if dtype == "BF16":
            bits = np.frombuffer(self.raw(name), "<u2").astype(np.uint32) << 16
            return bits.view(np.float32).reshape(shape)
        return np.frombuffer(self.raw(name), NUMPY[dtype]).reshape(shape)


def to_bfloat16(values):
    """float32 -> bfloat16 bits (uint16), round to nearest even as torch does. Finite values only."""
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError("to_bfloat16: a value is not finite")
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def encode(values, dtype):
    """The little-endian bytes of an array in a safetensors dtype."""
    if dtype == "BF16":
        return to_bfloat16(values).tobytes()
    return np.ascontiguousarray(values).astype(NUMPY[dtype]).tobytes()


def write(path, tensors, make_bytes, metadata=None):
    """Write `tensors` (name -> (dtype, shape)); make_bytes(name) is called once for each, in file order."""
    order = sorted(tensors, key=lambda name: (-ITEM_SIZE[tensors[name][0]], name))  # widest first: all data is aligned
    header, offset = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name in order:
        dtype, shape = tensors[name]
        size = int(np.prod(shape, dtype=np.int64)) * ITEM_SIZE[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path + ".part"
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            data = make_bytes(name)
            begin, end = header[name]["data_offsets"]
            if len(data) != end - begin:
                raise ValueError(f"{name}: {len(data)} bytes made, {end - begin} declared")
            file.write(data)
    os.replace(partial, path)
