"""Tensors that need not be kept in a file, because their numbers follow from their name. Element i of tensor `name`:

    z = (fnv1a64(name) + i) * 0x9E3779B97F4A7C15 mod 2^64; z ^= z >> 32; z *= 0xD6E8FEB86659FD93; z ^= z >> 32
    value = (int(z >> 40) - 2^23) * 2^-26

tests/convert/recipe.cpp makes the same ones.
"""

import numpy as np
import torch


def fnv1a64(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def recipe_tensor(name, shape):
    with np.errstate(over="ignore"):
        z = (np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(fnv1a64(name))) * np.uint64(0x9E3779B97F4A7C15)
        z ^= z >> np.uint64(32)
        z *= np.uint64(0xD6E8FEB86659FD93)
        z ^= z >> np.uint64(32)
    value = (z >> np.uint64(40)).astype(np.int64) - 2**23
    return torch.from_numpy((value.astype(np.float32) * np.float32(2.0**-26)).reshape(shape))
