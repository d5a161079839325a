"""Time a training step of raedit and of PyTorch on the CPU, in turn, and print the ratios.

    python tools/bench_training.py CONFIG [--batch 64] [--rounds 3] [--steps 3] [--threads 2] [--dtype bfloat16]
                                   [--raedit build/release/bin/train_bench] [--only raedit eager compiled]

CONFIG is a transformer's config.json, or s or xl. A step is forward, backward, clipping and AdamW over float32 parameters;
bfloat16 is autocast on the PyTorch side, and what raedit does for such a model on the other. PyTorch takes part twice, eager
and through torch.compile, each with the faster of its foreach and fused AdamW; its two processes live through all rounds and
sleep between their turns, so that everybody is warm and a drift of the machine's clock hits everybody. The median over
all steps counts. Peak memory is that of the whole process (ru_maxrss); a second figure for the compiled one leaves
compilation out, where the kernel can reset it (/proc/self/clear_refs). PYTHONPATH: see reference.py.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = {"s": {"hidden_size": [384, 2048], "depth": [12, 2], "num_heads": [6, 16]}, "xl": {}}


def model_config(name):
    if name in SIZES:
        return SIZES[name]
    with open(name) as file:
        return {key: value for key, value in json.load(file).items() if not key.startswith("_")}


def peak_since_reset():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1)) / 1024


def reset_peak():
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


class TorchStep:
    def __init__(self, args):
        import torch
        from diffusers import RAEDiT2DModel

        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        self.torch, self.bfloat16 = torch, args.dtype == "bfloat16"
        self.model = RAEDiT2DModel(**model_config(args.config)).train()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():  # zero gates would leave most gradients zero
                parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.02)
        config = self.model.config
        shape = (args.batch, config.in_channels, config.sample_size, config.sample_size)
        self.latents, self.noise = torch.randn(shape), torch.randn(shape)
        self.sigmas = (torch.arange(args.batch) + 0.5) / args.batch
        self.labels = torch.arange(args.batch) * 7 % config.num_classes
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.forward = torch.compile(self.model) if args.worker == "compiled" else self.model
        self.optimizer = self.faster_optimizer()

    def make_optimizer(self, kind):
        return self.torch.optim.AdamW(self.trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01, **{kind: True})

    def faster_optimizer(self):
        for parameter in self.trained:
            parameter.grad = self.torch.randn_like(parameter)
        best = None
        for kind in ("fused", "foreach"):
            optimizer = self.make_optimizer(kind)
            times = []
            for _ in range(4):
                start = time.perf_counter()
                optimizer.step()
                times.append(time.perf_counter() - start)
            if best is None or min(times[1:]) < best[0]:
                best = (min(times[1:]), kind)
        del optimizer
        return self.make_optimizer(best[1])

    def step(self):
        torch = self.torch
        sigma = self.sigmas.view(-1, 1, 1, 1)
        noisy, target = sigma * self.noise + (1 - sigma) * self.latents, self.noise - self.latents
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16):
            prediction = self.forward(noisy, timestep=self.sigmas, class_labels=self.labels, return_dict=False)[0]
        loss = torch.mean((prediction.float() - target) ** 2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def serve(args):
    """One line in: do the steps of a round. One JSON line out."""
    step = TorchStep(args)
    whole_peak = 0
    for index, _ in enumerate(sys.stdin):
        if index < 2:
            for _ in range(2):
                step.step()
        if index == 1:
            whole_peak = peak_since_reset()
            reset_peak()
        times, cpu = [], []
        for _ in range(args.steps):
            start, busy = time.perf_counter(), time.process_time()
            loss = step.step()
            times.append(1e3 * (time.perf_counter() - start))
            cpu.append(1e3 * (time.process_time() - busy))
        print(json.dumps({"ms": times, "cpu_ms": cpu, "loss": loss, "peak_mb": max(whole_peak, peak_since_reset()),
                          "steps_peak_mb": peak_since_reset()}), flush=True)


def run_raedit(args):
    config = args.config if args.config in SIZES else os.path.abspath(args.config)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [args.raedit, "--config", config, "--batch", str(args.batch), "--steps", str(args.steps), "--device", "cpu",
             "--dtype", args.dtype, "--no-ema"],
            stdout=output, env=dict(os.environ, OMP_NUM_THREADS=str(args.threads)))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        if status != 0:
            raise SystemExit("train_bench failed")
        output.seek(0)
        steps = re.findall(r"^step\s+\d+:\s+([\d.]+) ms.*loss ([\d.]+)", output.read(), re.MULTILINE)
    ms = [float(step[0]) for step in steps][-args.steps:]
    return {"ms": ms, "cpu_ms": [], "loss": float(steps[-1][1]), "peak_mb": usage.ru_maxrss / 1024}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--raedit", default=os.path.join(HERE, "..", "build", "release", "bin", "train_bench"))
    parser.add_argument("--only", nargs="+", default=["raedit", "eager", "compiled"])
    parser.add_argument("--worker", choices=["eager", "compiled"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return serve(args)

    workers = {}
    for name in args.only:
        if name != "raedit":
            workers[name] = subprocess.Popen([sys.executable, *sys.argv, "--worker", name], stdin=subprocess.PIPE,
                                             stdout=subprocess.PIPE, text=True)
    results = {name: [] for name in args.only}
    # PyTorch's first round is a warm-up.
    for round_index in range(args.rounds + 1):
        for name in args.only:
            if name == "raedit":
                if round_index > 0:
                    results[name].append(run_raedit(args))
                continue
            workers[name].stdin.write("\n")
            workers[name].stdin.flush()
            line = workers[name].stdout.readline()
            if not line:
                raise SystemExit(f"PyTorch ({name}) ended")
            if round_index > 0:
                results[name].append(json.loads(line))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()

    ours = None
    print(f"{'who':10} {'step ms':>9} {'fastest':>9} {'cpu ms':>9} {'/ raedit':>9} {'peak MB':>9} {'of steps':>9}  loss")
    for name, rounds in results.items():
        ms = [value for result in rounds for value in result["ms"]]
        cpu = [value for result in rounds for value in result["cpu_ms"]]
        median = statistics.median(ms)
        ours = median if name == "raedit" else ours
        ratio = f"{median / ours:9.2f}" if ours else " " * 9
        busy = f"{statistics.median(cpu):9.0f}" if cpu else " " * 9
        peak = max(result["peak_mb"] for result in rounds)
        steps_peak = max(result.get("steps_peak_mb", peak) for result in rounds)
        print(f"{name:10} {median:9.1f} {min(ms):9.1f} {busy} {ratio} {peak:9.0f} {steps_peak:9.0f}  {rounds[-1]['loss']:.5f}")


if __name__ == "__main__":
    main()
