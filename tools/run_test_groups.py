#!/usr/bin/env python3
"""Runs GoogleTest programs split into groups, several at a time, and prints the failures briefly.

    run_test_groups.py --log FILE [--limit SECONDS] [--jobs N] [--under COMMAND] [--only FILTER] PROGRAM[=FILTER]...

A group is what one parameter (or one suite without parameters) has; each has a process of its own, because after a
CUDA error nothing else works in the process that made it. Groups that died or met such an error are run again test by
test with RAEDIT_CUDA_SYNC=1, so that the error names its kernel. For tools/bundle_tests.sh.
"""
import argparse
import concurrent.futures
import os
import re
import shlex
import signal
import subprocess
import sys
import time

MOST_LINES = 150
STICKY = re.compile(r"illegal memory access|unspecified launch failure|misaligned address|device-side assert|"
                    r"illegal instruction|out-of-range shared|invalid (program|address space)|launch timed out|"
                    r"CUBLAS_STATUS_EXECUTION_FAILED|cudaError")


class Result:
    def __init__(self, name, code, text, seconds):
        self.name, self.code, self.text, self.seconds = name, code, text, seconds

    def died(self):
        return self.code < 0 or self.code > 1 or STICKY.search(self.text) is not None


def list_groups(program, filters):
    """{group: [test, ...]} of one program."""
    listing = subprocess.run([program, "--gtest_list_tests", *filters], capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        sys.exit(f"{program} does not start: {listing.stderr.strip()}")
    groups, suite = {}, ""
    for line in listing.stdout.splitlines():
        line = line.split("#")[0].rstrip()
        if line.endswith(".") and not line.startswith(" "):
            suite = line
        elif line.startswith("  ") and suite:
            test = line.strip()
            parameter = "/" + test.split("/", 1)[1] if "/" in test else ""
            groups.setdefault(suite[:-1] + parameter, []).append(suite + test)
    return groups


def run_one(name, command, environment, limit):
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          env=environment, start_new_session=True) as process:
        try:
            text, _ = process.communicate(timeout=max(limit, 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text, _ = process.communicate()
            text += "\nstopped: out of time\n"
    return Result(name, process.returncode, text, time.monotonic() - began)


def run_all(jobs, work, deadline, under):
    """work: [(name, program, tests, extra environment)]"""
    def job(item):
        name, program, tests, extra = item
        command = [*under, program, "--gtest_brief=1", "--gtest_color=no", "--gtest_filter=" + ":".join(tests)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **extra}
        return run_one(name, command, environment, deadline - time.monotonic())
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(job, work))


def brief(result):
    """[(test, lines)] of the failures: the first one of each test."""
    failures, block = [], []
    for line in result.text.splitlines():
        if line.startswith("[  FAILED  ]") and line.rstrip().endswith("ms)"):
            starts = [i for i, text in enumerate(block) if text.rstrip().endswith("Failure")] or [0]
            end = starts[1] if len(starts) > 1 else len(block)
            first = [text for text in block[starts[0] + 1:end] if text.strip() and text != "Google Test trace:"]
            name = line.split("]", 1)[1].split(",")[0].split("(")[0].strip()
            failures.append((f"{name} ({len(starts)} failures)", first[:7]))
            block = []
        else:
            block.append(line)
    rest = [text for text in block if text.strip() and not text.startswith(("Running main", "Note: Google", "[===="))]
    if result.code not in (0, 1):
        failures.append((f"{result.name}: ended with {result.code}", rest[-25:]))
    return failures


def passed(result):
    found = re.search(r"\[  PASSED  \] (\d+) test", result.text)
    return int(found.group(1)) if found else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--limit", type=float, default=240)
    parser.add_argument("--jobs", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--under", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("programs", nargs="+")
    options = parser.parse_args()
    began = time.monotonic()
    deadline = began + options.limit

    work = []
    for entry in options.programs:
        program, _, own = entry.partition("=")
        groups = list_groups(program, [f"--gtest_filter={own}"] if own else [])
        if options.only:
            wanted = {t for tests in list_groups(program, [f"--gtest_filter={options.only}"]).values() for t in tests}
            groups = {name: [t for t in tests if t in wanted] for name, tests in groups.items()}
        work += [(f"{os.path.basename(program)} {name}", program, tests, {}) for name, tests in groups.items() if tests]
    count = sum(len(tests) for _, _, tests, _ in work)
    under = shlex.split(options.under)
    results = run_all(options.jobs, work, deadline, under)
    again = []
    for item, result in zip(work, results):
        if result.died() and not under and len(item[2]) >= 1:
            again += [(f"{item[0]} alone: {t}", item[1], [t], {"RAEDIT_CUDA_SYNC": "1"}) for t in item[2]]
    alone = run_all(options.jobs, again, deadline, under)
    whole = [r for r in results if under or not r.died()] + alone

    with open(options.log, "w", encoding="utf-8") as log:
        for result in results + alone:
            log.write(f"==== {result.name}: code {result.code}, {result.seconds:.1f} s\n{result.text}\n")
    same = {}  # what failed in the same words is printed once
    for result in whole:
        for name, text in brief(result):
            same.setdefault("\n".join("   " + line[:330] for line in text), []).append(name)
    lines = []
    for text, names in same.items():
        others = f" and {len(names) - 1} others: {' '.join(names[1:])}"[:400] if len(names) > 1 else ""
        lines += [f"-- {names[0]}{others}", *text.splitlines()]
    for line in lines[:MOST_LINES]:
        print(line)
    if len(lines) > MOST_LINES:
        print(f"... {len(lines) - MOST_LINES} lines more in the log")
    slowest = sorted(results, key=lambda r: -r.seconds)[:3]
    skipped = sum(int(n) for r in whole for n in re.findall(r"\[  SKIPPED \] (\d+) test", r.text))
    print(f"{options.under or 'tests'}: {sum(map(passed, whole))} passed and {skipped} skipped of {count} in "
          f"{len(work)} groups ({len(again)} run again alone), {time.monotonic() - began:.0f} s; slowest: " +
          ", ".join(f"{r.name} {r.seconds:.0f} s" for r in slowest))
    return 0 if all(r.code == 0 for r in whole) else 1


if __name__ == "__main__":
    sys.exit(main())
