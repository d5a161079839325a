"""Write a whole RAEDiT pipeline in the diffusers layout with RANDOM weights: for benchmarks and load tests, not for pictures.

    python tools/make_xl_model.py OUT [--size xl|xl512|s|tiny] [--dtype bfloat16|float32] [--seed 0]

numpy only, one tensor in memory at a time, so the XL pipeline (1.34 G parameters) is made in 0.5 GB. A tensor's values
depend on the seed and its name alone. Names and shapes are those of diffusers PR 13231 (RAEDiT2DModel, AutoencoderRAE with the
DINOv2-with-registers encoder); `xl` is the published RAEDiT-XL with DINOv2-B and the ViT-XL decoder.
"""

import argparse
import json
import math
import os
import zlib

import numpy as np
import safetensors_raw as st

VIT_XL = dict(decoder_hidden_size=1152, decoder_num_hidden_layers=28, decoder_num_attention_heads=16,
              decoder_intermediate_size=4096, patch_size=16)
DINO_B = dict(encoder_hidden_size=768, encoder_num_hidden_layers=12, encoder_patch_size=14)
SIZES = {
    "xl": (dict(hidden_size=[1152, 2048], depth=[28, 2], num_heads=[16, 16]), dict(VIT_XL, **DINO_B, encoder_input_size=224)),
    "xl512": (dict(hidden_size=[1152, 2048], depth=[28, 2], num_heads=[16, 16]),
              dict(VIT_XL, **DINO_B, encoder_input_size=448)),
    "s": (dict(hidden_size=[384, 2048], depth=[12, 2], num_heads=[6, 16]), dict(VIT_XL, **DINO_B, encoder_input_size=224)),
    "tiny": (dict(hidden_size=[64, 128], depth=[2, 1], num_heads=[2, 2]),
             dict(decoder_hidden_size=64, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
                  decoder_intermediate_size=128, patch_size=8, encoder_hidden_size=64, encoder_num_hidden_layers=2,
                  encoder_patch_size=14, encoder_input_size=56)),
}
LABELS = {0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 207: "golden retriever", 250: "Siberian husky",
          279: "Arctic fox, white fox, Alopex lagopus", 360: "otter", 388: "giant panda, panda", 417: "balloon",
          933: "cheeseburger", 985: "daisy", 999: "toilet tissue, toilet paper, bathroom tissue"}
VERSION = "0.40.0.dev0"


def configs(size):
    """config.json of the transformer and of the autoencoder (its latent statistics come later)."""
    dit, rae = SIZES[size]
    grid = rae["encoder_input_size"] // rae["encoder_patch_size"]
    transformer = dict(_class_name="RAEDiT2DModel", _diffusers_version=VERSION, class_dropout_prob=0.1, **dit,
                       in_channels=rae["encoder_hidden_size"], mlp_ratio=4.0, num_classes=1000, patch_size=1,
                       sample_size=grid, use_pos_embed=True, use_qknorm=False, use_rmsnorm=True, use_rope=True,
                       use_swiglu=True, wo_shift=False)
    vae = dict(_class_name="AutoencoderRAE", _diffusers_version=VERSION, encoder_type="dinov2", encoder_norm_mean=None,
               encoder_norm_std=None, image_size=None, noise_tau=0.0, num_channels=3, reshape_to_2d=True,
               scaling_factor=1.0, use_encoder_loss=False, **rae)
    return transformer, vae


def linear(shapes, name, out_width, in_width):
    shapes[name + ".weight"] = (out_width, in_width)
    shapes[name + ".bias"] = (out_width,)


def transformer_shapes(config):
    shapes = {}
    widths, depth, heads = config["hidden_size"], config["depth"], config["num_heads"]
    channels, tokens = config["in_channels"], config["sample_size"] ** 2
    for stream, width in zip("sx", widths):
        shapes[f"{stream}_embedder.proj.weight"] = (width, channels, 1, 1)
        shapes[f"{stream}_embedder.proj.bias"] = (width,)
    linear(shapes, "s_projector", widths[1], widths[0])
    shapes["t_embedder.W"] = (256,)
    linear(shapes, "t_embedder.mlp.0", widths[0], 512)
    linear(shapes, "t_embedder.mlp.2", widths[0], widths[0])
    shapes["y_embedder.embedding_table.weight"] = (config["num_classes"] + 1, widths[0])
    shapes["pos_embed"] = (1, tokens, widths[0])
    for rope, width, head_count in zip(("enc", "dec"), widths, heads):
        for table in ("cos", "sin"):
            shapes[f"{rope}_feat_rope.freqs_{table}"] = (tokens, width // head_count)
    for i in range(sum(depth)):
        width = widths[0] if i < depth[0] else widths[1]
        inner = int(2 * int(width * config["mlp_ratio"]) / 3)
        block = f"blocks.{i}."
        shapes[block + "norm1.weight"] = shapes[block + "norm2.weight"] = (width,)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            linear(shapes, block + "attn." + part, width, width)
        linear(shapes, block + "mlp.net.0.proj", 2 * inner, width)
        linear(shapes, block + "mlp.net.2", width, inner)
        linear(shapes, block + "adaLN_modulation.1", 6 * width, width)
    shapes["final_layer.norm_final.weight"] = (widths[1],)
    linear(shapes, "final_layer.linear", channels, widths[1])
    linear(shapes, "final_layer.adaLN_modulation.1", 2 * widths[1], widths[1])
    return shapes


def vae_shapes(config):
    width, patch = config["encoder_hidden_size"], config["encoder_patch_size"]
    grid = config["encoder_input_size"] // patch
    embeddings = "encoder.embeddings."
    shapes = {
        "encoder_mean": (1, 3, 1, 1), "encoder_std": (1, 3, 1, 1),
        "_latents_mean": (width, grid, grid), "_latents_std": (width, grid, grid),
        embeddings + "cls_token": (1, 1, width), embeddings + "mask_token": (1, width),
        embeddings + "register_tokens": (1, 4, width),
        embeddings + "position_embeddings": (1, 1 + (518 // patch) ** 2, width),
        embeddings + "patch_embeddings.projection.weight": (width, 3, patch, patch),
        embeddings + "patch_embeddings.projection.bias": (width,),
    }
    for i in range(config["encoder_num_hidden_layers"]):
        layer = f"encoder.encoder.layer.{i}."
        for norm in ("norm1", "norm2"):
            shapes[layer + norm + ".weight"] = shapes[layer + norm + ".bias"] = (width,)
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            linear(shapes, layer + "attention." + part, width, width)
        shapes[layer + "layer_scale1.lambda1"] = shapes[layer + "layer_scale2.lambda1"] = (width,)
        linear(shapes, layer + "mlp.fc1", 4 * width, width)
        linear(shapes, layer + "mlp.fc2", width, 4 * width)
    decoder, inner = config["decoder_hidden_size"], config["decoder_intermediate_size"]
    linear(shapes, "decoder.decoder_embed", decoder, width)
    shapes["decoder.trainable_cls_token"] = (1, 1, decoder)
    for i in range(config["decoder_num_hidden_layers"]):
        layer = f"decoder.decoder_layers.{i}."
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            linear(shapes, layer + "attention." + part, decoder, decoder)
        linear(shapes, layer + "intermediate.dense", inner, decoder)
        linear(shapes, layer + "output.dense", decoder, inner)
        for norm in ("layernorm_before", "layernorm_after"):
            shapes[layer + norm + ".weight"] = shapes[layer + norm + ".bias"] = (decoder,)
    shapes["decoder.decoder_norm.weight"] = shapes["decoder.decoder_norm.bias"] = (decoder,)
    linear(shapes, "decoder.decoder_pred", config["patch_size"] ** 2 * 3, decoder)
    return shapes


def sincos_table(tokens, width):
    """Position table of the encoder stream: column angles, then row angles, each [sin | cos]; positions span 0..16."""
    side = math.isqrt(tokens)
    positions = np.arange(side, dtype=np.float64) / (side / 16)
    omega = 10000.0 ** -(np.arange(width // 4, dtype=np.float64) / (width // 4))
    angles = positions[:, None] * omega
    half = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    columns, rows = np.tile(half, (side, 1)), np.repeat(half, side, axis=0)
    return np.concatenate([columns, rows], axis=1)[None]


def rope_table(tokens, head_width, function):
    """Rotary table: the first half of a head turns with the row, the second with the column; neighbours share an angle."""
    side, axis_width = math.isqrt(tokens), head_width // 2
    omega = 1.0 / 10000.0 ** (np.arange(0, axis_width, 2, dtype=np.float64) / axis_width)
    angles = np.repeat(np.arange(side)[:, None] * omega, 2, axis=1)
    return function(np.concatenate([np.repeat(angles, side, axis=0), np.tile(angles, (side, 1))], axis=1))


def values(name, shape, seed):
    """The float32 values of one tensor."""
    if name == "encoder_mean":
        return np.array([0.485, 0.456, 0.406]).reshape(shape)
    if name == "encoder_std":
        return np.array([0.229, 0.224, 0.225]).reshape(shape)
    if name == "pos_embed":
        return sincos_table(shape[1], shape[2])
    if name.endswith("freqs_cos") or name.endswith("freqs_sin"):
        return rope_table(shape[0], shape[1], np.cos if name.endswith("cos") else np.sin)
    noise = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    if name == "t_embedder.W":
        return noise
    if name == "_latents_std" or "norm" in name and name.endswith(".weight") or name.endswith("lambda1"):
        return 1.0 + 0.1 * noise
    if name == "_latents_mean":
        return 0.3 * noise
    if name == "y_embedder.embedding_table.weight":
        return 0.5 * noise
    if name.endswith(".weight"):
        return noise / math.sqrt(np.prod(shape[1:]))
    return 0.02 * noise  # biases, tokens, learned positions


def write_json(path, data):
    with open(path, "w") as file:
        json.dump(data, file, indent=2, sort_keys=True)
        file.write("\n")


def write_model(folder, config, shapes, dtype, seed):
    os.makedirs(folder, exist_ok=True)
    tensors = {name: (st.stored_dtype(name, dtype), shape) for name, shape in shapes.items()}
    st.write(os.path.join(folder, "diffusion_pytorch_model.safetensors"), tensors,
             lambda name: st.encode(values(name, shapes[name], seed), tensors[name][0]), {"format": "pt"})
    write_json(os.path.join(folder, "config.json"), config)
    return sum(int(np.prod(shape)) for shape in shapes.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--size", choices=SIZES, default="xl")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dtype = {"bfloat16": "BF16", "float32": "F32"}[args.dtype]

    transformer, vae = configs(args.size)
    count = write_model(os.path.join(args.out, "transformer"), transformer, transformer_shapes(transformer), dtype, args.seed)
    print(f"transformer: {count / 1e6:.1f} M values")
    shapes = vae_shapes(vae)
    for name in ("latents_mean", "latents_std"):  # diffusers writes the statistics into config.json too: megabytes of text
        vae[name] = values("_" + name, shapes["_" + name], args.seed).astype(np.float32).tolist()
    count = write_model(os.path.join(args.out, "vae"), vae, shapes, dtype, args.seed)
    print(f"vae: {count / 1e6:.1f} M values")

    shift = math.sqrt(transformer["in_channels"] * transformer["sample_size"] ** 2 / 4096)
    os.makedirs(os.path.join(args.out, "scheduler"), exist_ok=True)
    write_json(os.path.join(args.out, "scheduler", "scheduler_config.json"), dict(
        _class_name="FlowMatchEulerDiscreteScheduler", _diffusers_version=VERSION, base_image_seq_len=256, base_shift=0.5,
        invert_sigmas=False, max_image_seq_len=4096, max_shift=1.15, num_train_timesteps=1000, shift=shift,
        shift_terminal=None, stochastic_sampling=False, time_shift_type="exponential", use_beta_sigmas=False,
        use_dynamic_shifting=False, use_exponential_sigmas=False, use_karras_sigmas=False))
    write_json(os.path.join(args.out, "model_index.json"), dict(
        _class_name="RAEDiTPipeline", _diffusers_version=VERSION,
        id2label={str(key): label for key, label in LABELS.items()},
        scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"], transformer=["diffusers", "RAEDiT2DModel"],
        vae=["diffusers", "AutoencoderRAE"]))


if __name__ == "__main__":
    main()
