"""Write what the RAE authors publish, in their sizes and their layout, with RANDOM weights: for conversion at real size.

    python tools/make_upstream_checkpoints.py OUT --rae RAE [--only stage2,ViTB,ViTL,ViTXL,encoder] [--seed 0]

OUT/config.yaml                                                     the authors' DiTDHXL-DINOv2-B.yaml
OUT/DiTs/Dinov2/wReg_base/ImageNet256/DiTDH-XL/stage2_model.pt      DiTDH-XL, 838 M parameters, float32, 3.4 GB
OUT/decoders/dinov2/wReg_base/{ViTB,ViTL,ViTXL}_n08/model.pt        the three decoders
OUT/stats/dinov2/wReg_base/imagenet1k/stat.pt                       mean and variance, [768, 16, 16]
OUT/dinov2-with-registers-base/                                     an encoder in the Hugging Face layout

The authors' own classes (bytetriper/RAE a4d18c4; RAE is a checkout of it) and transformers build the models; numbers come from
the seed. The builders are shared with convert_reference.py and compare_conversion.py, which make tiny models with them.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import torch

DECODERS = {
    "ViTB": dict(decoder_hidden_size=768, decoder_intermediate_size=3072, decoder_num_attention_heads=12,
                 decoder_num_hidden_layers=12),
    "ViTL": dict(decoder_hidden_size=1024, decoder_intermediate_size=4096, decoder_num_attention_heads=16,
                 decoder_num_hidden_layers=24),
    "ViTXL": dict(decoder_hidden_size=1152, decoder_intermediate_size=4096, decoder_num_attention_heads=16,
                  decoder_num_hidden_layers=28),
}
DIT_XL = dict(input_size=16, patch_size=1, in_channels=768, hidden_size=[1152, 2048], depth=[28, 2], num_heads=[16, 16])
CONFIG = "configs/stage2/sampling/ImageNet256/DiTDHXL-DINOv2-B.yaml"
STAGE2 = "DiTs/Dinov2/wReg_base/ImageNet256/DiTDH-XL/stage2_model.pt"
DECODER_FOLDER = "decoders/dinov2/wReg_base"
STATS = "stats/dinov2/wReg_base/imagenet1k/stat.pt"
PROCESSORS = {
    "dinov2": dict(crop_size={"height": 224, "width": 224}, do_center_crop=True, do_convert_rgb=True, do_normalize=True,
                   do_rescale=True, do_resize=True, image_mean=[0.485, 0.456, 0.406], image_processor_type="BitImageProcessor",
                   image_std=[0.229, 0.224, 0.225], resample=3, rescale_factor=1 / 255, size={"shortest_edge": 256}),
    "mae": dict(do_normalize=True, do_resize=True, feature_extractor_type="ViTFeatureExtractor",
                image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], resample=2, size=224),
    "siglip2": dict(do_convert_rgb=None, do_normalize=True, do_rescale=True, do_resize=True, image_mean=[0.5, 0.5, 0.5],
                    image_processor_type="SiglipImageProcessor", image_std=[0.5, 0.5, 0.5], resample=2,
                    rescale_factor=1 / 255, size={"height": 256, "width": 256}),
}


def use_rae(checkout):
    """Makes the authors' modules importable."""
    sys.path.insert(0, os.path.join(checkout, "src"))


def write_json(path, value, indent=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        json.dump(value, file, indent=indent)
        file.write("\n")


def randomise(module, scale, keep=()):
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name not in keep:
                parameter.normal_(0, scale)
    return module.eval()


def upstream_dit(size, seed, learned_pos=False, scale=0.2):
    """The authors' model, every parameter random, the tables as the authors' code makes them."""
    from stage2.models.DDT import DiTwDDTHead

    torch.manual_seed(seed)
    return randomise(DiTwDDTHead(**size), scale, () if learned_pos else ("pos_embed",))


def upstream_decoder(seed, width, grid, patch, sizes, scale=0.2):
    from stage1.decoders.decoder import GeneralDecoder
    from stage1.decoders.utils import ViTMAEConfig

    torch.manual_seed(seed)
    config = ViTMAEConfig(hidden_size=width, patch_size=patch, image_size=patch * grid, **sizes)
    return randomise(GeneralDecoder(config, num_patches=grid * grid), scale, ("decoder_pos_embed",))


def decoder_config(sizes):
    """A decoder's config.json like those in the authors' configs/decoder."""
    return dict(architectures=["ViTMAEForPreTraining"], attention_probs_dropout_prob=0.0, **sizes, hidden_act="gelu",
                hidden_dropout_prob=0.0, hidden_size=768, image_size=224, initializer_range=0.02, intermediate_size=3072,
                layer_norm_eps=1e-12, mask_ratio=0.75, model_type="vit_mae", norm_pix_loss=False, num_attention_heads=12,
                num_channels=3, num_hidden_layers=12, patch_size="SHOULD BE RELOADED", qkv_bias=True, torch_dtype="float32",
                transformers_version="4.42.3")


def encoder_model(kind, layers, width):
    """A randomly initialised transformers model of the published shape but for its width and depth."""
    import transformers as hf

    heads = width // 64
    if kind == "dinov2":
        return hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, image_size=518, patch_size=14))
    if kind == "mae":
        return hf.ViTMAEForPreTraining(hf.ViTMAEConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, decoder_hidden_size=16,
            decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=16))
    text = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=16,
                max_position_embeddings=4, projection_size=width)
    vision = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, image_size=256, patch_size=16)
    return hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=vision))


def save_encoder(folder, kind, model):
    model.save_pretrained(folder)
    write_json(Path(folder) / "preprocessor_config.json", PROCESSORS[kind])


def save_stats(path, shape, seed, choose=lambda mean, var: {"mean": mean, "var": var}):
    random = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape, generator=random)
    var = torch.rand(shape, generator=random) + 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(choose(mean, var), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rae", required=True, help="checkout of the authors' repository")
    parser.add_argument("--only", default="stage2,ViTB,ViTL,ViTXL,encoder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    use_rae(args.rae)
    wanted = args.only.split(",")

    def save(path, state):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        count = sum(value.numel() for value in state.values())
        print(f"{path.relative_to(args.out)}: {count / 1e6:.0f} M numbers, {path.stat().st_size / 1e9:.2f} GB", flush=True)

    if "stage2" in wanted:
        save(args.out / STAGE2, upstream_dit(DIT_XL, args.seed, scale=0.02).state_dict())
    for name, sizes in DECODERS.items():
        if name in wanted:
            decoder = upstream_decoder(args.seed, 768, 16, 16, sizes, scale=0.02)
            save(args.out / DECODER_FOLDER / f"{name}_n08" / "model.pt", decoder.state_dict())
    if "encoder" in wanted:
        torch.manual_seed(args.seed)
        save_encoder(args.out / "dinov2-with-registers-base", "dinov2", randomise(encoder_model("dinov2", 12, 768), 0.02))
    save_stats(args.out / STATS, (768, 16, 16), args.seed)
    shutil.copy(os.path.join(args.rae, CONFIG), args.out / "config.yaml")


if __name__ == "__main__":
    main()
