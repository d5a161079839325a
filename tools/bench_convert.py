"""Time `raedit convert` beside the Python scripts that it replaces, on checkpoints of real size.

    PYTHONPATH=DIFFUSERS/src python tools/bench_convert.py RAEDIT UPSTREAM --scripts DIFFUSERS/scripts [--rounds 3]
                                    [--only stage2,ViTB,ViTL,ViTXL] [--output DIR] [--python-only]

UPSTREAM is what make_upstream_checkpoints.py writes; the scripts are those of diffusers PR 13231 (head e3d065493c). Per
conversion and round, first with the input out of the page cache (posix_fadvise: what another process maps stays), then with it
there: the script, raedit, and a copy that reads the input and writes as many bytes as the converters do. Every run starts with
nothing left to flush. Printed are medians, as a markdown table:
    seconds    until the process ends (for the copy: until the last write returns)
    on disk    the same plus the time that fsync of the output then takes: what the disk allows, see the copy
    GB/s       of input, by `on disk`
    peak RSS   ru_maxrss, with the pages of mapped files that were resident
The results of both are compared: same names, shapes and bits.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from make_upstream_checkpoints import DECODER_FOLDER, DECODERS, STAGE2, STATS

ENCODER = "dinov2-with-registers-base"
KEPT, STD = "decoder.decoder_pos_embed", "_latents_std"
# A child's ru_maxrss starts from its parent's peak, so the parent must be small.
LAUNCHER = """
import os, sys, time
start = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(child, 0)
print([os.waitstatus_to_exitcode(status), time.perf_counter() - start, usage.ru_maxrss])
"""
WEIGHTS = "diffusion_pytorch_model.safetensors"


def job(name, upstream):
    """(script, its arguments, arguments of raedit, input files)"""
    if name == "stage2":
        arguments = ["--repo_or_path", str(upstream), "--config_path", "config.yaml"]
        return ("convert_rae_stage2_to_diffusers.py", [*arguments, "--safe_serialization"], ["stage2", *arguments],
                [upstream / STAGE2])
    arguments = ["--repo_or_path", str(upstream), "--encoder_type", "dinov2", "--encoder_name_or_path", str(upstream / ENCODER),
                 "--decoder_config_name", name, "--variant", f"{name}_n08"]
    inputs = [upstream / DECODER_FOLDER / f"{name}_n08" / "model.pt", upstream / ENCODER / "model.safetensors",
              upstream / STATS]
    return "convert_rae_to_diffusers.py", arguments, ["rae", *arguments], inputs


def set_cached(files, cached):
    """Reads the files, or asks the kernel to forget them."""
    for path in files:
        with open(path, "rb", buffering=0) as file:
            if cached:
                while file.read(1 << 24):
                    pass
            else:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def flush(folder):
    start = time.perf_counter()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    return time.perf_counter() - start


def timed(command, output):
    """Seconds, seconds with flush, peak RSS in MB."""
    log = Path(f"{output}.log")
    with open(log, "wb") as file:
        done = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, *command], stdout=subprocess.PIPE, stderr=file, check=True)
    code, seconds, peak_kib = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)}: exit {code}\n{log.read_text()[-2000:]}")
    log.unlink()
    return seconds, seconds + flush(output), peak_kib * 1024 / 1e6


def copy(files, size, output):
    """Reads all of the files and writes `size` bytes."""
    output.mkdir(parents=True)
    start, left = time.perf_counter(), size
    with open(output / "copy", "wb", buffering=0) as target:
        for path in files:
            with open(path, "rb", buffering=0) as source:
                while block := source.read(1 << 23):
                    left -= target.write(block[:max(left, 0)])
        while left > 0:  # more comes out than goes in: bfloat16 to float32
            left -= target.write(bytes(min(left, 1 << 23)))
    seconds = time.perf_counter() - start
    return seconds, seconds + flush(output), None


def tensors(path):
    raw = np.memmap(path, np.uint8, "r")
    start = 8 + int(raw[:8].view(np.uint64)[0])
    header = json.loads(raw[8:start].tobytes())
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], tuple(entry["shape"]), raw[start + entry["data_offsets"][0]:start + entry["data_offsets"][1]])
            for name, entry in header.items()}


def different(one, two):
    """Names of the tensors that are not the same in both, bit for bit; and what is different on purpose, in words."""
    a, b = tensors(one), tensors(two)
    wrong = sorted(set(a) ^ set(b)) + [name for name in sorted(set(a) & set(b))
                                       if a[name][:2] != b[name][:2] or not np.array_equal(a[name][2], b[name][2])]
    known = []
    if KEPT in b and KEPT not in a:
        wrong.remove(KEPT)
        known.append(f"raedit keeps the checkpoint's {KEPT}")
    if STD in wrong and a[STD][:2] == b[STD][:2] == ("F32", b[STD][1]):
        apart = np.abs(a[STD][2].view(np.int32) - b[STD][2].view(np.int32))
        if apart.max() == 1:  # torch takes roots from MKL, which does not always round correctly
            wrong.remove(STD)
            known.append(f"{STD}: {np.count_nonzero(apart)} of {apart.size} roots differ in the last bit")
    return wrong, known


def bench(name, args):
    script, script_arguments, raedit_arguments, inputs = job(name, args.upstream)
    size_in, rows, same = sum(path.stat().st_size for path in inputs), {}, None
    commands = {"script": [sys.executable, os.path.join(args.scripts, script), *script_arguments]}
    if not args.python_only:
        commands["raedit"] = [args.raedit, "convert", *raedit_arguments]
    for _ in range(args.rounds):
        for cached in (False, True):
            written = {}
            for who, command in commands.items():
                output = args.output / f"{name}-{who}"
                shutil.rmtree(output, ignore_errors=True)
                os.sync()
                set_cached(inputs, cached)
                rows.setdefault((cached, who), []).append(timed([*command, "--output_path", str(output)], output))
                written[who] = next(output.rglob(WEIGHTS))
            size_out = written["script"].stat().st_size
            if len(written) == 2 and same is None:
                same = different(written["script"], written["raedit"])
            for who in commands:
                shutil.rmtree(args.output / f"{name}-{who}")
            os.sync()
            set_cached(inputs, cached)
            rows.setdefault((cached, "copy"), []).append(copy(inputs, size_out, args.output / f"{name}-copy"))
            shutil.rmtree(args.output / f"{name}-copy")
    for (cached, who), runs in sorted(rows.items(), key=lambda row: row[0][0]):
        seconds, on_disk = (statistics.median(run[k] for run in runs) for k in (0, 1))
        theirs = [statistics.median(run[k] for run in rows[cached, "script"]) for k in (0, 1)]
        peak = f"{max(run[2] for run in runs):.0f} MB" if runs[0][2] else ""
        print(f"| {name} ({size_in / 1e9:.2f} GB) | {'cached' if cached else 'not cached'} | {who} | {seconds:.2f} | {on_disk:.2f} | "
              f"{size_in / 1e9 / on_disk:.2f} | {peak} | {theirs[0] / seconds:.1f} | {theirs[1] / on_disk:.1f} |", flush=True)
    return same


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raedit", help="the program")
    parser.add_argument("upstream", type=Path)
    parser.add_argument("--scripts", required=True, help="scripts folder of diffusers PR 13231")
    parser.add_argument("--output", type=Path, help="where results go for a moment; default: UPSTREAM/bench")
    parser.add_argument("--only", default=",".join(["stage2", *DECODERS]))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python-only", action="store_true")
    args = parser.parse_args()
    args.upstream = args.upstream.resolve()
    args.output = args.output or args.upstream / "bench"
    args.output.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    print("| input | page cache | who | seconds | on disk | GB/s | peak RSS | speed-up | speed-up on disk |")
    print("|---|---|---|--:|--:|--:|--:|--:|--:|")
    notes = []
    for name in args.only.split(","):
        result = bench(name, args)
        if result is not None:
            notes.append((name, result))
    print()
    for name, (wrong, known) in notes:
        print(f"- {name}: " + (f"DIFFERENT from the script's: {wrong[:5]}" if wrong else "names, shapes and bits are the script's")
              + "".join(f"; {text}" for text in known))
    sys.exit(any(wrong for _, (wrong, _) in notes))


if __name__ == "__main__":
    main()
