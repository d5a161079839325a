"""Run the reference code for expected values that the first fixtures lack: tests/parity/data/extra and emoji64.

    python tools/dump_reference.py [--data tests/parity/data] [--emoji models/emoji64]
    python tools/dump_reference.py --encoder mae|siglip2 [--data tests/parity/data]

All in float32 on one CPU thread, unless a name says otherwise. PYTHONPATH: see reference.py; each file's metadata names the
versions that ran, and "cases" (JSON) says for each case how it was made:
    extra/scheduler.safetensors    <case>.sigmas, .timesteps; steps and scale_noise with their inputs and noise
    extra/autoencoder.safetensors  the weights of autoencoder/dinov2 under other options: <case>.pixels|latent|sample, and
                                   <case>.latents_mean|latents_std where the case replaces the statistics
    extra/transformer.safetensors  the weights of transformer/base at raw timesteps up to 999, and conditioned from outside
    emoji64/reference.safetensors  the bundled model: inputs (kept from the file as it stands) and outputs
    autoencoder/<encoder>/         with --encoder: a model with random weights, and io.safetensors like those of the first
                                   fixtures. siglip2 needs transformers 4.57, with which alone diffusers can build it
"""

import argparse
import json
import math
import os

import reference
import safetensors_raw as st
import torch
from diffusers import AutoencoderRAE, FlowMatchEulerDiscreteScheduler, RAEDiT2DModel
from safetensors.torch import load_file


def save(path, tensors, cases):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
    specs = {name: (names[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    st.write(path, specs, lambda name: tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes(),
             {**reference.versions(), "cases": json.dumps(cases)})  # unlike save_file, the same bytes at every run
    print(f"{path}: {len(tensors)} tensors, {os.path.getsize(path) / 1e3:.0f} kB")


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# name: (config, arguments of set_timesteps). Calls that come before it stand under "before".
DYNAMIC = {"use_dynamic_shifting": True}
SCHEDULES = {
    "dynamic_exponential": (DYNAMIC, {"num_inference_steps": 7, "mu": 1.9}),
    "dynamic_exponential_negative_mu": (DYNAMIC, {"num_inference_steps": 7, "mu": -0.4}),
    "dynamic_linear": ({**DYNAMIC, "time_shift_type": "linear"}, {"num_inference_steps": 7, "mu": 2.5}),
    "dynamic_ignores_shift": ({**DYNAMIC, "shift": 6.0}, {"num_inference_steps": 7, "mu": 0.7}),
    "dynamic_linear_terminal": ({**DYNAMIC, "time_shift_type": "linear", "shift_terminal": 0.02},
                                {"num_inference_steps": 9, "mu": 1.3}),
    "dynamic_custom_sigmas": (DYNAMIC, {"sigmas": [1.0, 0.75, 0.4, 0.1], "mu": 1.1}),
    "dynamic_custom_timesteps": (DYNAMIC, {"timesteps": [1000.0, 640.0, 333.0, 20.0], "mu": 1.1}),
    "terminal": ({"shift": 3.0, "shift_terminal": 0.05}, {"num_inference_steps": 9}),
    "terminal_zero_is_off": ({"shift": 3.0, "shift_terminal": 0.0}, {"num_inference_steps": 9}),
    "invert": ({"shift": 2.0, "invert_sigmas": True}, {"num_inference_steps": 6}),
    "invert_dynamic": ({**DYNAMIC, "invert_sigmas": True}, {"num_inference_steps": 6, "mu": 0.8}),
    "karras": ({"shift": 6.928203230275509, "use_karras_sigmas": True}, {"num_inference_steps": 10}),
    "karras_one_step": ({"shift": 2.0, "use_karras_sigmas": True}, {"num_inference_steps": 1}),
    "karras_terminal_invert": ({"shift": 2.0, "use_karras_sigmas": True, "shift_terminal": 0.1, "invert_sigmas": True},
                               {"num_inference_steps": 6}),
    "karras_dynamic": ({**DYNAMIC, "use_karras_sigmas": True}, {"num_inference_steps": 6, "mu": 1.5}),
    "karras_custom_sigmas": ({"shift": 1.5, "use_karras_sigmas": True}, {"sigmas": [0.9, 0.7, 0.3, 0.2]}),
    "exponential": ({"shift": 6.928203230275509, "use_exponential_sigmas": True}, {"num_inference_steps": 10}),
    "exponential_custom_sigmas": ({"use_exponential_sigmas": True}, {"sigmas": [0.9, 0.7, 0.3, 0.2]}),
    "beta": ({"shift": 2.5, "use_beta_sigmas": True}, {"num_inference_steps": 10}),
    "beta_one_step": ({"use_beta_sigmas": True}, {"num_inference_steps": 1}),
    "custom_sigmas": ({"shift": 6.928203230275509}, {"sigmas": [1.0, 0.83, 0.5, 0.21, 0.033]}),
    "custom_timesteps": ({"shift": 2.0}, {"timesteps": [1000.0, 811.5, 500.0, 77.0]}),
    "custom_both": ({"shift": 2.0}, {"sigmas": [1.0, 0.6, 0.2], "timesteps": [900.0, 500.0, 100.0]}),
    "custom_sigmas_and_count": ({"shift": 2.0}, {"sigmas": [1.0, 0.6, 0.2], "num_inference_steps": 3}),
    "train_500": ({"num_train_timesteps": 500, "shift": 3.0}, {"num_inference_steps": 8}),
    "shift_below_one": ({"shift": 0.7071067811865476}, {"num_inference_steps": 8}),
    "set_shift_4": ({"shift": 2.0}, {"num_inference_steps": 8}, {"set_shift": 4.0}),
    "set_timesteps_twice": ({"shift": 2.0}, {"num_inference_steps": 8}, {"set_timesteps": 3}),
}


def scheduler(config):
    return FlowMatchEulerDiscreteScheduler(**config)


def dump_schedules(tensors, cases):
    for name, (config, arguments, *before) in SCHEDULES.items():
        made = scheduler(config)
        for call, value in (before[0] if before else {}).items():
            getattr(made, call)(value)
        made.set_timesteps(**arguments)
        if not torch.isfinite(made.sigmas).all():
            raise SystemExit(f"{name}: not finite")
        tensors[name + ".sigmas"], tensors[name + ".timesteps"] = made.sigmas, made.timesteps
        cases[name] = {"config": config, "set_timesteps": arguments, "before": before[0] if before else {}}
    made = scheduler({"num_train_timesteps": 60, "shift": 3.0})
    tensors["constructor.sigmas"], tensors["constructor.timesteps"] = made.sigmas, made.timesteps
    cases["constructor"] = {"config": {"num_train_timesteps": 60, "shift": 3.0}, "sigma_min": made.sigma_min,
                            "sigma_max": made.sigma_max}


def dump_steps(tensors, cases):
    """Whole runs with a fixed model output per step: every prev_sample is kept."""
    def run(name, config, dtype=torch.float32, begin=None, start=0, seed=None, sigmas=None):
        made = scheduler(config)
        made.set_timesteps(**({"sigmas": sigmas} if sigmas else {"num_inference_steps": 4}))
        if begin is not None:
            made.set_begin_index(begin)
        sample = normal(1, 2, 3, 2, 2).to(dtype)
        count = len(made.timesteps) - (begin or start)
        outputs = normal(2, count, 2, 3, 2, 2).to(dtype)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        tensors[name + ".sample"], tensors[name + ".model_output"] = sample, outputs
        kept = []
        for k in range(count):
            sample = made.step(outputs[k], made.timesteps[(begin or start) + k], sample, generator=generator).prev_sample
            kept.append(sample)
        tensors[name + ".prev_sample"] = torch.stack(kept)
        if seed is not None:  # the same draws, one at each step, so that a test need not trust a generator
            generator = torch.Generator().manual_seed(seed)
            tensors[name + ".noise"] = torch.stack([torch.randn(2, 3, 2, 2, generator=generator) for _ in range(count)])
        cases[name] = {"config": config, "begin_index": begin, "start": start, "generator_seed": seed, "sigmas": sigmas,
                       "num_inference_steps": None if sigmas else 4}

    shift = {"shift": 2.0}
    run("step", shift)
    run("step_bfloat16", shift, dtype=torch.bfloat16)
    run("step_from_2", shift, start=2)
    run("step_begin_index_1", shift, begin=1)
    run("step_invert", {**shift, "invert_sigmas": True})
    run("step_stochastic", {**shift, "stochastic_sampling": True}, seed=11)
    run("step_stochastic_bfloat16", {**shift, "stochastic_sampling": True}, dtype=torch.bfloat16, seed=11)

    # A schedule with a repeated sigma: the first step looks its timestep up and takes the SECOND match.
    made = scheduler({})
    made.set_timesteps(sigmas=[1.0, 0.5, 0.5, 0.2])
    sample, output = normal(3, 1, 2, 2, 2), normal(4, 1, 2, 2, 2)
    tensors["step_repeated.sample"], tensors["step_repeated.model_output"] = sample, output
    tensors["step_repeated.prev_sample"] = made.step(output, made.timesteps[1], sample).prev_sample
    cases["step_repeated"] = {"config": {}, "sigmas": [1.0, 0.5, 0.5, 0.2], "start": 1, "step_index_after": made.step_index}


def dump_per_token(tensors, cases):
    """per_token_timesteps (B,N): each token steps from its own sigma down to the next lower one of the schedule.

    Mind the sign: here the reference adds (sigma - next) * model_output, the opposite of its ordinary step.
    """
    for name, config, seed in (("per_token", {"shift": 2.0}, None),
                               ("per_token_stochastic", {"shift": 2.0, "stochastic_sampling": True}, 5)):
        made = scheduler(config)
        made.set_timesteps(5)
        sample, output = normal(6, 2, 4, 3), normal(7, 2, 4, 3)
        at = made.timesteps
        tokens = torch.stack([at[[0, 1, 2, 4]], torch.tensor([990.0, 500.0, float(at[3]), 0.0])])
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        tensors[name + ".sample"], tensors[name + ".model_output"] = sample, output
        tensors[name + ".per_token_timesteps"] = tokens
        tensors[name + ".prev_sample"] = made.step(output, at[0], sample, generator=generator,
                                                   per_token_timesteps=tokens).prev_sample
        if seed is not None:
            tensors[name + ".noise"] = normal(seed, 2, 4, 3)
        cases[name] = {"config": config, "num_inference_steps": 5, "generator_seed": seed}


def dump_scale_noise(tensors, cases):
    sample, noise = normal(8, 3, 2, 2, 2), normal(9, 3, 2, 2, 2)
    for dtype, suffix in ((torch.float32, ""), (torch.bfloat16, "_bfloat16")):
        made = scheduler({"shift": 2.0})
        made.set_timesteps(6)
        x, e = sample.to(dtype), noise.to(dtype)
        tensors["scale_noise" + suffix + ".sample"], tensors["scale_noise" + suffix + ".noise"] = x, e
        tensors["scale_noise" + suffix + ".timestep"] = made.timesteps[[5, 0, 3]]
        tensors["scale_noise" + suffix + ".result"] = made.scale_noise(x, made.timesteps[[5, 0, 3]], e)
    made.set_begin_index(2)  # the timesteps given do not matter any more
    tensors["scale_noise_begin_2_bfloat16.result"] = made.scale_noise(x, made.timesteps[[5, 0, 3]], e)
    made = scheduler({"shift": 3.0})  # as a trainer does: the 1000 timesteps of the constructor
    tensors["scale_noise_train.timestep"] = made.timesteps[[0, 500, 999]]
    tensors["scale_noise_train.result"] = made.scale_noise(sample, made.timesteps[[0, 500, 999]], noise)
    cases["scale_noise"] = {"config": {"shift": 2.0}, "num_inference_steps": 6}
    cases["scale_noise_begin_2_bfloat16"] = {"config": {"shift": 2.0}, "num_inference_steps": 6, "begin_index": 2,
                                             "inputs": "scale_noise_bfloat16"}
    cases["scale_noise_train"] = {"config": {"shift": 3.0}, "inputs": "scale_noise"}


def autoencoder(folder, changes, statistics):
    """The model of `folder` with config `changes`; `statistics` replaces (mean, std), None keeps the file's."""
    with open(os.path.join(folder, "config.json")) as file:
        config = {k: v for k, v in json.load(file).items() if not k.startswith("_")}
    config.update(changes)
    weights = load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors"))
    if statistics is not None:
        config["latents_mean"], config["latents_std"] = (x.tolist() for x in statistics)
        weights["_latents_mean"], weights["_latents_std"] = statistics
    model = AutoencoderRAE(**config)
    model.load_state_dict(weights, strict=True)
    return model.eval()


@torch.no_grad()
def dump_autoencoder(folder, path):
    tensors, cases = {}, {}
    side, channels = 56, 128
    one = torch.tensor([0.25]), torch.tensor([1.5])
    each = 0.3 * normal(21, channels, 1, 1), 0.5 + normal(22, channels, 1, 1).abs()
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(23))

    def round_trip(name, changes, statistics, images, sliced=False):
        model = autoencoder(folder, changes, statistics)
        if sliced:
            model.enable_slicing()
        latent = model.encode(images).latent
        tensors[name + ".latent"], tensors[name + ".sample"] = latent, model.decode(latent).sample
        if statistics is not None:
            tensors[name + ".latents_mean"], tensors[name + ".latents_std"] = statistics
        cases[name] = {"config": changes, "slicing": sliced}

    tensors["pixels"] = pixels
    round_trip("scalar", {}, one, pixels)
    round_trip("per_channel", {}, each, pixels)
    round_trip("per_channel_4d", {}, tuple(x[None] for x in each), pixels[:1])
    round_trip("scaling_factor", {"scaling_factor": 0.7}, None, pixels)
    round_trip("scaling_factor_scalar", {"scaling_factor": 1.25}, one, pixels[:1])
    round_trip("sliced", {}, None, pixels, sliced=True)
    round_trip("norm", {"encoder_norm_mean": [0.5, 0.5, 0.5], "encoder_norm_std": [0.5, 0.5, 0.5]}, None, pixels[:1])
    model = autoencoder(folder, {}, None)
    for height, width in ((40, 40), (48, 80), (112, 64), (56, 57)):
        name = f"size_{height}x{width}"
        tensors[name + ".pixels"] = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height))
        tensors[name + ".latent"] = model.encode(tensors[name + ".pixels"]).latent
        cases[name] = {"config": {}}
    model = autoencoder(folder, {}, one)
    for grid in (3, 6):  # other token counts than the decoder's 4x4 are resized, bilinear, after decoder_embed
        name = f"grid_{grid}"
        tensors[name + ".latent"] = normal(24 + grid, 1, channels, grid, grid)
        tensors[name + ".sample"] = model.decode(tensors[name + ".latent"]).sample
        cases[name] = {"config": {}, "statistics": "scalar"}
    model = autoencoder(folder, {"noise_tau": 0.8}, None).train()
    tensors["noise_tau.latent"] = model.encode(pixels, generator=torch.Generator().manual_seed(31)).latent
    cases["noise_tau"] = {"config": {"noise_tau": 0.8}, "train": True, "generator_seed": 31}
    save(path, tensors, cases)


# The hidden width, patches, and what the encoder sees; its position table belongs to pictures of 224 or 256 pixels. The MLP
# of both is 3072 wide whatever the hidden size, so one layer it is.
ENCODERS = {"mae": dict(patch=16, side=64, own=224, larger=256, seed=61),
            "siglip2": dict(patch=14, side=56, own=252, larger=280, seed=62)}


def random_weights(model, seed):
    """Every tensor from its own seed, of a size that keeps activations near 1, and rounded to four bits: git packs such float32
    files to a third. The embeddings are a hundred times smaller, so that the eps of the first norm is felt."""
    for k, (name, tensor) in enumerate(sorted(model.state_dict().items())):
        if name.startswith(("encoder_mean", "encoder_std", "_latents")):
            continue
        noise = normal(1000 * seed + k, *tensor.shape)
        is_norm = "norm" in name and name.endswith("weight")
        scale = noise[0].numel() ** -0.5 if tensor.ndim > 1 and tensor.shape[0] > 1 else 0.2
        scale *= 0.01 if "embeddings." in name else 1.0
        mantissa, exponent = torch.frexp(noise * scale + (1.0 if is_norm else 0.0))
        tensor.copy_(torch.ldexp((mantissa * 16).round() / 16, exponent))


def dump_encoder(kind, folder):
    how = ENCODERS[kind]
    width, side, seed = 64, how["side"], how["seed"]
    config = dict(encoder_type=kind, encoder_hidden_size=width, encoder_patch_size=how["patch"], encoder_num_hidden_layers=1,
                  encoder_input_size=side, decoder_hidden_size=64, decoder_num_hidden_layers=1, decoder_num_attention_heads=4,
                  decoder_intermediate_size=128, patch_size=8,
                  latents_mean=0.3 * normal(seed + 1, width, 1, 1), latents_std=0.5 + normal(seed + 2, width, 1, 1).abs())
    if kind == "siglip2":
        config.update(encoder_norm_mean=[0.5] * 3, encoder_norm_std=[0.5] * 3)

    def build(size, dtype=torch.float32):
        model = AutoencoderRAE(**{**config, "encoder_input_size": size}).eval()
        with torch.no_grad():
            random_weights(model, seed)
        return model.to(dtype)

    def pixels(batch, height, width):
        return torch.randint(0, 257, (batch, 3, height, width), generator=torch.Generator().manual_seed(seed + height)) / 256

    model = build(side)
    tensors, cases = {}, {"native": {}, "resized": {}}
    with torch.no_grad():
        for name, images in (("native", pixels(2, side, side)), ("resized", pixels(1, 40, 60))):
            latent = model.encode(images).latent
            tensors.update({name + ".pixels": images, name + ".latent": latent, name + ".sample": model.decode(latent).sample})
        tensors["native.latent_bfloat16"] = build(side, torch.bfloat16).encode(tensors["native.pixels"].bfloat16()).latent
        # The grid that the position table belongs to, and a larger one. Little pictures are enough: encode() resizes them.
        for name in ("own", "larger"):
            tensors[name + ".pixels"] = pixels(1, 20, 30)
            tensors[name + ".latent"] = build(how[name]).encode(tensors[name + ".pixels"]).latent
            cases[name] = {"config": {"encoder_input_size": how[name]}}
    tensors["target"] = pixels(*(tensors["native.sample"].shape[i] for i in (0, 2, 3)))
    loss = (model.decode(tensors["native.latent"]).sample - tensors["target"]).abs().mean()
    model.decoder.requires_grad_(True)
    loss.backward()
    tensors["l1_loss"] = loss.detach().reshape(1)
    tensors.update({"grad." + name: p.grad for name, p in model.decoder.named_parameters()})
    save(os.path.join(folder, "io.safetensors"), tensors, cases)

    weights = dict(sorted(model.state_dict().items()))
    with open(os.path.join(folder, "config.json"), "w") as file:
        file.write(model.to_json_string())
    st.write(os.path.join(folder, "diffusion_pytorch_model.safetensors"),
             {name: ("F32", tuple(tensor.shape)) for name, tensor in weights.items()},
             lambda name: weights[name].detach().contiguous().numpy().tobytes(), {"format": "pt"})
    reference.strict(AutoencoderRAE, folder)


@torch.no_grad()
def dump_transformer(folder, path):
    model = reference.strict(RAEDiT2DModel, folder)
    tensors = {"hidden_states": normal(41, 4, 8, 4, 4), "class_labels": torch.tensor([0, 3, 9, 10]),
               "raw.timestep": torch.tensor([0.0, 17.0, 500.0, 999.0]), "timestep": torch.tensor([0.0, 0.25, 0.5, 1.0])}
    for name in ("", "raw."):
        tensors[name + "sample"] = model(tensors["hidden_states"], timestep=tensors[name + "timestep"],
                                         class_labels=tensors["class_labels"]).sample
    tensors["conditioned.conditioning_hidden_states"] = normal(42, 4, 16, 32)
    tensors["conditioned.sample"] = model(
        tensors["hidden_states"], timestep=tensors["timestep"], class_labels=tensors["class_labels"],
        conditioning_hidden_states=tensors["conditioned.conditioning_hidden_states"]).sample
    save(path, tensors, {"raw": "timesteps as the reference's own tests feed them, not divided by 1000",
                         "conditioned": "conditioning_hidden_states given: the encoder stream is skipped"})


@torch.no_grad()
def dump_emoji(folder, path):
    pipeline = reference.load_pipeline(folder)
    old = load_file(path)
    tensors = {name: old[name] for name in ("latents", "class_labels", "pixels")}
    runs = {"cfg1_steps25": dict(num_inference_steps=25), "cfg3_steps10": dict(num_inference_steps=10, guidance_scale=3.0)}
    for name, arguments in runs.items():
        latents = pipeline(tensors["class_labels"], latents=tensors["latents"], output_type="latent", **arguments).images
        tensors[name + ".latent"], tensors[name + ".image"] = latents, pipeline.vae.decode(latents).sample.clamp(0, 1)
    generators = [torch.Generator().manual_seed(42 + k) for k in range(2)]
    tensors["seeds_42_43.class_labels"] = torch.tensor([31, 4])
    tensors["seeds_42_43.image"] = pipeline(tensors["seeds_42_43.class_labels"], generator=generators, guidance_scale=3.0,
                                            num_inference_steps=10, output_type="pt").images
    tensors["encoded"] = pipeline.vae.encode(tensors["pixels"]).latent
    tensors["reconstructed"] = pipeline.vae.decode(tensors["encoded"]).sample
    noise = (tensors["reconstructed"].clamp(0, 1) - tensors["pixels"]).square().mean().item()
    print(f"emoji64: reconstruction {-10 * math.log10(noise):.1f} dB")
    save(path, tensors, {"model": "models/emoji64 (bfloat16 weights), widened to float32",
                         "runs": runs, "seeds_42_43": "picture k from its own CPU generator, guidance 3, 10 steps"})


def main():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.path.normpath(os.path.join(root, "tests", "parity", "data")))
    parser.add_argument("--emoji", default=os.path.normpath(os.path.join(root, "models", "emoji64")))
    parser.add_argument("--encoder", choices=sorted(ENCODERS), help="write autoencoder/<encoder> and nothing else")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.encoder:
        dump_encoder(args.encoder, os.path.join(args.data, "autoencoder", args.encoder))
        return

    tensors, cases = {}, {}
    for dump in (dump_schedules, dump_steps, dump_per_token, dump_scale_noise):
        dump(tensors, cases)
    save(os.path.join(args.data, "extra", "scheduler.safetensors"), tensors, cases)
    extra = os.path.join(args.data, "extra")
    dump_autoencoder(os.path.join(args.data, "autoencoder", "dinov2"), os.path.join(extra, "autoencoder.safetensors"))
    dump_transformer(os.path.join(args.data, "transformer", "base"), os.path.join(extra, "transformer.safetensors"))
    dump_emoji(args.emoji, os.path.join(args.data, "emoji64", "reference.safetensors"))


if __name__ == "__main__":
    main()
