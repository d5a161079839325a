"""Time `raedit bench` and PyTorch (tools/bench_pytorch.py) in turn and print the ratios.

    python tools/bench_interleaved.py MODEL [--raedit build/release/bin/raedit] [--threads 2] [--rounds 3] [--python PYTHON]

MODEL is a folder from tools/make_xl_model.py (the PyTorch side reads its weights; raedit's are random too). Each round runs
both programs once for every part and dtype, so that a drift of the machine's clock hits both; the median over the rounds
counts. PYTHON is an interpreter that has torch and the reference's diffusers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PARTS = {"transformer": "xl", "decoder": "decoder-xl"}


def run_json(command, environment):
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return result.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--raedit", default=os.path.join(HERE, "..", "build", "release", "bin", "raedit"))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    ours, theirs, ceilings = {}, {}, {}
    for _ in range(args.rounds):
        for dtype in ("float32", "bfloat16"):
            for part, size in PARTS.items():
                text = run_json([args.raedit, "bench", "--size", size, "--dtype", dtype, "--threads", str(args.threads),
                                 "--runs", "3", "--json"], dict(os.environ))
                result = json.loads(text)
                ours.setdefault((part, dtype), []).append(result["milliseconds"])
                ceilings.setdefault((part, dtype), []).append(result["fraction"])
        text = run_json([args.python, os.path.join(HERE, "bench_pytorch.py"), args.model, "--threads", str(args.threads),
                         "--warmup", "1", "--runs", "3"], dict(os.environ))
        for line in text.splitlines():
            if line.startswith("{"):
                result = json.loads(line)
                theirs.setdefault((result["part"], result["dtype"]), []).append(result["median_ms"])

    print(f"{'part':12} {'dtype':9} {'raedit ms':>10} {'PyTorch ms':>11} {'PyTorch/raedit':>15} {'of ceiling':>11}")
    for key in ours:
        mine, other = statistics.median(ours[key]), statistics.median(theirs[key])
        print(f"{key[0]:12} {key[1]:9} {mine:10.0f} {other:11.0f} {other / mine:15.2f} {statistics.median(ceilings[key]):11.2f}")


if __name__ == "__main__":
    main()
