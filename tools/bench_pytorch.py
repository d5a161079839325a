"""Time the reference on the CPU with PyTorch, eager: the yardstick that `raedit bench` is compared with.

    python tools/bench_pytorch.py MODEL [--threads 2] [--dtype float32 bfloat16] [--part transformer decoder]
                                  [--batch 1] [--warmup 2] [--runs 5]

MODEL is a pipeline folder (make_xl_model.py writes one with random weights). Inputs are random normal; a model whose output
is all zeros is refused, for zero weights may run faster than real ones. Prints one JSON line a measurement: milliseconds
(median, min), GFLOP of one forward (2 per multiply-add: linears, convolutions, attention) and TFLOP/s at the median.
PYTHONPATH: see reference.py.
"""

import argparse
import json
import os
import statistics
import time

import reference
import torch


def count_flop(model, call):
    """GFLOP of one call, from the shapes that pass through its linears, convolutions and attentions."""
    total, hooks = [0], []

    def matmul(module, _, output):  # for a convolution too: one weight row for each output value
        total[0] += 2 * module.weight[0].numel() * output.numel()

    def attention(module, args, _):
        batch, tokens = args[0].shape[:2]
        total[0] += 4 * batch * tokens * tokens * module.to_v.out_features

    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            hooks.append(module.register_forward_hook(matmul))
        elif hasattr(module, "to_q") and hasattr(module, "to_out"):
            hooks.append(module.register_forward_hook(attention))
    output = call()
    for hook in hooks:
        hook.remove()
    if not torch.isfinite(output).all() or not output.any():
        raise SystemExit("the output is all zeros or not finite: give the model random weights")
    return total[0] / 1e9


def prepare(part, folder, dtype, batch):
    from diffusers import AutoencoderRAE, RAEDiT2DModel

    generator = torch.Generator().manual_seed(0)
    if part == "transformer":
        model = reference.strict(RAEDiT2DModel, os.path.join(folder, "transformer"), dtype)
        config = model.config
        latents = torch.randn(batch, config.in_channels, config.sample_size, config.sample_size, generator=generator)
        timestep = torch.full((batch,), 0.7, dtype=dtype)
        labels = torch.arange(batch) % config.num_classes
        latents = latents.to(dtype)
        return model, lambda: model(latents, timestep=timestep, class_labels=labels).sample
    model = reference.strict(AutoencoderRAE, os.path.join(folder, "vae"), dtype)
    config = model.config
    side = config.encoder_input_size // config.encoder_patch_size
    latents = torch.randn(batch, config.encoder_hidden_size, side, side, generator=generator).to(dtype)
    return model.decoder, lambda: model.decode(latents).sample


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--part", nargs="+", choices=["transformer", "decoder"], default=["transformer", "decoder"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    for dtype in args.dtype:
        for part in args.part:
            module, call = prepare(part, args.model, getattr(torch, dtype), args.batch)
            with torch.inference_mode():
                gflop = count_flop(module, call)
                for _ in range(args.warmup):
                    call()
                times = []
                for _ in range(args.runs):
                    start = time.perf_counter()
                    call()
                    times.append(1e3 * (time.perf_counter() - start))
            median = statistics.median(times)
            print(json.dumps({"part": part, "dtype": dtype, "batch": args.batch, "threads": args.threads,
                              "median_ms": round(median, 2), "min_ms": round(min(times), 2), "runs": args.runs,
                              "gflop": round(gflop, 2), "tflop_per_s": round(gflop / median, 4),
                              "capability": torch.backends.cpu.get_cpu_capability(), **reference.versions()}), flush=True)
            del module, call


if __name__ == "__main__":
    main()
