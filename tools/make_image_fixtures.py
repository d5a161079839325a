#!/usr/bin/env python3
"""Writes the JPEG and WebP pictures that tests/io reads, and what Pillow makes of them by convert("RGB"):
expected.safetensors, [H, W, 3] under the name of the file. Development only; what wrote them is in versions.json.

    tools/make_image_fixtures.py tests/io/data/pictures
"""

import io
import json
import pathlib
import struct
import sys

import numpy as np
import safetensors
from PIL import Image, __version__, features
from safetensors.numpy import save_file

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(29)


def picture(width, height, channels):
    """Waves of every direction, some noise, and one hard edge."""
    y, x = np.mgrid[0:height, 0:width][:, :, :, None]
    wave = np.sin(x * random.uniform(-0.6, 0.6, channels) + y * random.uniform(-0.6, 0.6, channels)
                  + random.uniform(0, 6, channels))
    values = 128 + 90 * wave + random.normal(0, 12, wave.shape)
    values[: height // 3, width // 2 :] = random.integers(0, 256, channels)
    return np.clip(values, 0, 255).astype(np.uint8)


def image(mode, width=21, height=18):
    channels = len(mode)
    return Image.fromarray(picture(width, height, channels)[:, :, 0] if channels == 1 else
                           picture(width, height, channels), mode)


def encoded(source, kind, **options):
    target = io.BytesIO()
    source.save(target, kind, **options)
    return bytearray(target.getvalue())


def jpeg(mode, *size, **options):
    return encoded(image(mode, *size), "JPEG", **{"quality": 85, "optimize": True, **options})


def segment(data, *markers):
    """Where the first segment with one of these markers begins, its two bytes of 0xFF and marker included."""
    at = 2
    while data[at + 1] not in markers:
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return at


def resampled(data, factors, width, height):
    """The same blocks under other sampling factors of Y. Valid where a group has as many blocks, and there are as many
    groups; what the picture shows is scrambled."""
    at = segment(data, 0xC0)
    struct.pack_into(">HH", data, at + 5, height, width)
    data[at + 11] = factors
    return data


def with_adobe_transform(data, transform):
    data[segment(data, 0xEE) + 15] = transform
    return data


def without_adobe(data):
    at = segment(data, 0xEE)
    del data[at : at + 2 + struct.unpack_from(">H", data, at + 2)[0]]
    return data


def oriented():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    return exif


def animation(width, height, left, top):
    """Two frames of 21 x 18, at (left, top) of a larger canvas."""
    data = encoded(image("RGBA"), "WEBP", save_all=True, append_images=[image("RGBA")], lossless=True, exact=True)
    canvas, frame = data.index(b"VP8X") + 8 + 4, data.index(b"ANMF") + 8
    data[canvas : canvas + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    data[frame : frame + 6] = (left // 2).to_bytes(3, "little") + (top // 2).to_bytes(3, "little")
    return data


files = {
    "gray.jpg": jpeg("L"),
    "gray_progressive.jpg": jpeg("L", progressive=True),
    "444.jpg": jpeg("RGB", subsampling="4:4:4"),
    "422.jpg": jpeg("RGB", subsampling="4:2:2"),
    "420.jpg": jpeg("RGB", 37, 21, subsampling="4:2:0"),
    "440.jpg": resampled(jpeg("RGB", 32, 16, subsampling="4:2:2"), 0x12, 13, 19),
    "411.jpg": resampled(jpeg("RGB", 32, 32, subsampling="4:2:0"), 0x41, 41, 11),
    "114.jpg": resampled(jpeg("RGB", 32, 32, subsampling="4:2:0"), 0x14, 11, 41),
    "420_low_quality.jpg": jpeg("RGB", quality=8, subsampling="4:2:0"),
    "420_one_pixel.jpg": jpeg("RGB", 1, 1, subsampling="4:2:0"),
    "420_restarts.jpg": jpeg("RGB", subsampling="4:2:0", restart_marker_blocks=1),
    "420_oriented.jpg": jpeg("RGB", subsampling="4:2:0", exif=oriented()),
    "444_progressive.jpg": jpeg("RGB", subsampling="4:4:4", progressive=True),
    "420_progressive.jpg": jpeg("RGB", subsampling="4:2:0", progressive=True),
    "rgb.jpg": jpeg("RGB", keep_rgb=True),
    "cmyk.jpg": jpeg("CMYK"),
    "cmyk_progressive.jpg": jpeg("CMYK", progressive=True),
    "cmyk_plain.jpg": without_adobe(jpeg("CMYK")),
    "ycck.jpg": with_adobe_transform(jpeg("CMYK"), 2),
    "lossy.webp": encoded(image("RGB", 37, 21), "WEBP", quality=80),
    "lossy_low_quality.webp": encoded(image("RGB"), "WEBP", quality=5),
    "lossy_alpha.webp": encoded(image("RGBA"), "WEBP", quality=80, exact=True),
    "lossy_exif.webp": encoded(image("RGB"), "WEBP", quality=80, exif=oriented()),
    "lossless.webp": encoded(image("RGB"), "WEBP", lossless=True),
    "lossless_alpha.webp": encoded(image("RGBA"), "WEBP", lossless=True, exact=True),
    "lossless_palette.webp": encoded(image("RGB").quantize(7).convert("RGB"), "WEBP", lossless=True),
    "animation.webp": animation(26, 25, 4, 6),
}
expected = {}
for name, data in files.items():
    (out / name).write_bytes(data)
    expected[name] = np.asarray(Image.open(out / name).convert("RGB"))
save_file(expected, out / "expected.safetensors")
(out / "versions.json").write_text(json.dumps({
    "Pillow": __version__, "libjpeg-turbo": features.version("libjpeg_turbo"), "libwebp": features.version("webp"),
    "numpy": np.__version__, "safetensors": safetensors.__version__}, indent=2) + "\n")
