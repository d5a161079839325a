"""Time a whole picture, sampling and decoding, by raedit and by the reference in PyTorch in turn; or raedit alone from the
start of the process to the PNG.

    python tools/bench_picture.py MODEL [--dtype bfloat16] [--steps 25] [--rounds 3] [--peers eager compiled openvino]
                                  [--raedit build/release/bin/raedit] [--threads 2]
    python tools/bench_picture.py --start-to-png [MODEL] [--dtype bfloat16] [--steps 25] [--rounds 9]

MODEL is a pipeline folder; tools/make_xl_model.py writes one of the published size with random weights. The peers keep their
models loaded and compiled through all rounds; raedit is a new process each time. openvino is the reference's pipeline with
transformer and decoder exported to OpenVINO, in static shapes (left out unless asked for). Compared is what both report for
sampling and decoding alone (raedit's --json), so loading and compiling count for nobody. Medians over the rounds, ratios to
raedit. Without PyTorch (--start-to-png) it needs nothing but Python. PYTHONPATH: see reference.py. RAEDIT_FORCE_ISA,
ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA go as they are to whom they concern.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import types

HERE = os.path.dirname(os.path.abspath(__file__))


def run_raedit(args):
    """(seconds of sampling and decoding, seconds of the whole process, what ran)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [args.raedit, "generate", "--class-id", "3", "--steps", str(args.steps), "--dtype", args.dtype, "--threads",
                   str(args.threads), "--quiet", "--json", "--output", os.path.join(folder, "picture.png")]
        if args.model:
            command += ["--model", args.model]
        start = time.perf_counter()
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        whole = time.perf_counter() - start
    result = json.loads(text)
    return result["seconds"]["sample"] + result["seconds"]["decode"], whole, result["device"]


class Reference:
    """The pipeline with its transformer and decoder as they are, or compiled with frozen weights."""

    def __init__(self, args):
        import reference
        import torch
        import torch._inductor.config

        torch.set_num_threads(args.threads)
        torch._inductor.config.freezing = True
        self.torch, self.steps = torch, args.steps
        self.pipeline = reference.load_pipeline(args.model, getattr(torch, args.dtype))
        for part in (self.pipeline.transformer, self.pipeline.vae):
            part.requires_grad_(False)
        self.plain = self.pipeline.transformer, self.pipeline.vae.decoder
        self.parts = {"eager": self.plain, "compiled": [torch.compile(part) for part in self.plain]}
        config = self.pipeline.transformer.config
        shape = (1, config.in_channels, config.sample_size, config.sample_size)
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        if "openvino" in args.peers:
            self.parts["openvino"] = self.exported(args)

    def exported(self, args):
        """Transformer and decoder in OpenVINO, called as the reference calls its own."""
        import bench_pytorch

        torch, dtype = self.torch, getattr(self.torch, args.dtype)

        class Exported(torch.nn.Module):
            def __init__(self, part, call, result, inputs):
                super().__init__()
                self.part, self.result = part, result
                with torch.no_grad():
                    self.inside = bench_pytorch.OpenVinoModel(bench_pytorch.whole(part, call), inputs, args.dtype, args.threads)

            def __getattr__(self, name):  # config, dtype, unpatchify
                try:
                    return super().__getattr__(name)
                except AttributeError:
                    return getattr(self.part, name)

            def forward(self, *inputs, return_dict=True, **named):
                self.inside.set_inputs([*inputs, *named.values()])
                self.inside.infer()
                return types.SimpleNamespace(**{self.result: self.inside.output().to(dtype)})

        transformer, decoder = self.plain
        vae = self.pipeline.vae
        return (Exported(transformer, lambda m, x, t, y: m(x, timestep=t, class_labels=y, return_dict=False)[0], "sample",
                         (self.noise.to(dtype), torch.full((1,), 0.5, dtype=dtype), torch.tensor([3]))),
                Exported(decoder, lambda m, x: m(x, return_dict=False)[0], "logits",
                         (torch.randn(1, vae.num_patches, vae.config.encoder_hidden_size).to(dtype),)))

    def picture(self, kind, steps):
        self.pipeline.transformer, self.pipeline.vae.decoder = self.parts[kind]
        start = time.perf_counter()
        image = self.pipeline([3], latents=self.noise, num_inference_steps=steps, output_type="pt").images
        seconds = time.perf_counter() - start
        if not self.torch.isfinite(image).all():
            raise SystemExit("the picture is not finite")
        return seconds, image


def median_of_starts(args):
    wholes = [run_raedit(args)[1] for _ in range(args.rounds + 1)][1:]
    print(f"process start to PNG, {args.steps} steps, {args.dtype}: {statistics.median(wholes):.3f} s "
          f"(fastest {min(wholes):.3f}, slowest {max(wholes):.3f}, {args.rounds} runs)")


def by_turns(args):
    peers = Reference(args)
    # Compiles and warms; and all must draw the same.
    warm = {kind: peers.picture(kind, 1)[1].float() for kind in args.peers}
    for kind, image in warm.items():
        difference = (image - warm[args.peers[0]]).abs().mean().item()
        if not difference < 0.02:
            raise SystemExit(f"the pictures of {kind} and {args.peers[0]} differ by {difference:.3f} of 1 in the mean")
    seconds = {kind: [] for kind in ("raedit", *args.peers)}
    for _ in range(args.rounds):
        sampling, _, device = run_raedit(args)
        seconds["raedit"].append(sampling)
        for kind in args.peers:
            seconds[kind].append(peers.picture(kind, args.steps)[0])
    ours = statistics.median(seconds["raedit"])
    print(f"{args.steps} steps and decoding, {args.dtype}, {args.rounds} rounds by turns, {device}; "
          f"PyTorch {peers.torch.__version__}, {peers.torch.backends.cpu.get_cpu_capability()}")
    for kind, values in seconds.items():
        median = statistics.median(values)
        print(f"{kind:10} {median:8.2f} s {median / ours:6.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="*", choices=["eager", "compiled", "openvino"], default=["eager", "compiled"])
    parser.add_argument("--start-to-png", action="store_true")
    parser.add_argument("--raedit", default=os.path.join(HERE, "..", "build", "release", "bin", "raedit"))
    args = parser.parse_args()
    if args.start_to_png:
        return median_of_starts(args)
    if args.model is None:
        parser.error("MODEL is required beside PyTorch")
    return by_turns(args)


if __name__ == "__main__":
    main()
