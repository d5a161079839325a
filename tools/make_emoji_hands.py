#!/usr/bin/env python3
"""Draws data/emoji64-new/hand-dark-skin: Noto Emoji's hands in the darkest skin tone, 64 x 64 on white.

usage: make_emoji_hands.py OUT_FOLDER

Needs the Debian packages fonts-noto-color-emoji and unicode-data, and Pillow with raqm. The training set of
models/emoji64 has no skin tones.
"""
import os
import re
import sys

from PIL import Image, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
LIST = "/usr/share/unicode/emoji/emoji-test.txt"
DARK = "1F3FF"
LEFT_OUT = {"1F595"}


def hands():
    group = ""
    with open(LIST, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("# subgroup:"):
                group = line.split(":")[1].strip()
            found = re.match(r"([0-9A-F ]+); fully-qualified", line)
            points = found.group(1).split() if found and group.startswith("hand") else []
            if DARK in points and len(points) <= 3 and points[0] not in LEFT_OUT:
                yield points


def main():
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    font = ImageFont.truetype(FONT, 109, layout_engine=ImageFont.Layout.RAQM)
    for points in hands():
        text = "".join(chr(int(point, 16)) for point in points)
        if font.getlength(text) > 160:  # no single glyph for the sequence
            continue
        image = Image.new("RGBA", (136, 136), (255, 255, 255, 255))
        ImageDraw.Draw(image).text((0, 4), text, font=font, embedded_color=True)
        image = image.convert("RGB").resize((64, 64), Image.LANCZOS)
        if len(set(image.getdata())) >= 8:
            image.save(os.path.join(out, "-".join(points).lower() + ".png"), optimize=True)


if __name__ == "__main__":
    main()
