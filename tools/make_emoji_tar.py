#!/usr/bin/env python3
"""Packs an image folder into one WebDataset tar: lossless WebP pictures, class ids, classes.txt beside it.

usage: make_emoji_tar.py IMAGE_FOLDER OUT.tar

Same pixels, same order, same bytes every time. Made data/emoji64.tar from the training set of models/emoji64 (Noto
Emoji, SIL OFL 1.1 / Apache-2.0) with Pillow 13.
"""
import io
import os
import sys
import tarfile

from PIL import Image


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def main():
    folder, out = sys.argv[1:]
    classes = sorted(d for d in os.listdir(folder) if os.path.isdir(os.path.join(folder, d)))
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        for class_id, name in enumerate(classes):
            for picture in sorted(os.listdir(os.path.join(folder, name))):
                image = Image.open(os.path.join(folder, name, picture)).convert("RGB")
                packed = io.BytesIO()
                image.save(packed, "WEBP", lossless=True, quality=100, method=6, exact=True)
                assert Image.open(io.BytesIO(packed.getvalue())).convert("RGB").tobytes() == image.tobytes()
                stem = f"{name}/{os.path.splitext(picture)[0]}"
                add(tar, f"{stem}.webp", packed.getvalue())
                add(tar, f"{stem}.cls", str(class_id).encode())
    with open(os.path.join(os.path.dirname(out), "classes.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(classes) + "\n")


if __name__ == "__main__":
    main()
