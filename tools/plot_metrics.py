#!/usr/bin/env python3
"""Draws the loss of one or more runs as an SVG, from metrics.jsonl alone.

usage: plot_metrics.py OUT.svg METRICS.jsonl...
"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 320, 56, 36, 16, 16
COLOURS = ["#1565c0", "#c62828", "#2e7d32", "#6a1b9a"]


def read(path):
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(row["step"], row["loss"]) for row in rows if row.get("loss") and "skipped" not in row]


def main():
    out, paths = sys.argv[1], sys.argv[2:]
    runs = [read(path) for path in paths]
    last = max(step for run in runs for step, _ in run)
    low = math.floor(min(loss for run in runs for _, loss in run) * 10) / 10
    high = math.ceil(max(loss for run in runs for _, loss in run) * 10) / 10

    def x(step):
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(loss):
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low)

    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
             f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>']
    for i in range(6):
        loss = low + (high - low) * i / 5
        lines.append(f'<path d="M{LEFT} {y(loss):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                     f'<text x="{LEFT - 6}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:.2f}</text>')
        step = last * i / 5
        lines.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{step:.0f}</text>')
    for run, colour in zip(runs, COLOURS):
        points = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in run)
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    lines.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">step</text></svg>')
    with open(out, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
