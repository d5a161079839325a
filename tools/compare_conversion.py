"""Show that conversion keeps the model: diffusers draws from a converted folder what raedit draws, and the authors' own code
loads what raedit exports.

    PYTHONPATH=DIFFUSERS/src python tools/compare_conversion.py RAEDIT WORKDIR --rae RAE [--keep]

RAEDIT is the program, RAE a checkout of bytetriper/RAE (a4d18c4); DIFFUSERS is PR 13231 (head e3d065493c), see reference.py. In
WORKDIR (made, and removed again without --keep):
    upstream/ and encoder/  a small model (a grid of 16 x 16 latents, pictures of 256 x 256, 3 encoder layers) written by the
                            authors' classes and by transformers
    converted/              raedit convert pipeline
    epsilon/                the same with --latents_std upstream
    exported/               raedit convert export
Checked, with the bounds in brackets: the pictures of diffusers and raedit from the same noise (2e-5); the bits of raedit's own
pictures from the converted folder and from the upstream folder; the authors' code against diffusers on the converted folder;
exported files loaded by the authors' code with strict=True, every tensor and output equal to the original's.
Exit 1 where a check fails.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import reference
import torch
import transformers
import yaml
from make_upstream_checkpoints import (decoder_config, encoder_model, randomise, save_encoder, save_stats, upstream_decoder,
                                       upstream_dit, use_rae, write_json)
from safetensors.torch import load_file, save_file

GRID, WIDTH, CLASSES = 16, 64, 10
DIT = dict(input_size=GRID, patch_size=1, in_channels=WIDTH, hidden_size=[32, 48], depth=[3, 2], num_heads=[4, 4], mlp_ratio=4.0,
           class_dropout_prob=0.1, num_classes=CLASSES, use_qknorm=False, use_swiglu=True, use_rope=True, use_rmsnorm=True,
           wo_shift=False, use_pos_embed=True)
DECODER = dict(decoder_hidden_size=48, decoder_intermediate_size=96, decoder_num_attention_heads=4, decoder_num_hidden_layers=3)
ENCODER_LAYERS, PATCH, STEPS, LABELS = 3, 16, 4, (3, 7)
PICTURES, OUTPUTS = 2e-5, 2e-5
# latents_std and the authors' variance treat an epsilon differently: docs/conversion.md, "Two epsilons".
DECODED, ENCODED = 1e-4, 1e-3


class Report:
    def __init__(self):
        self.failed = False

    def say(self, good, text):
        self.failed |= not good
        print(f"- {'ok' if good else 'FAILED'}: {text}", flush=True)

    def within(self, what, one, two, bound):
        if one.shape != two.shape:
            return self.say(False, f"{what}: shape {tuple(one.shape)} and {tuple(two.shape)}")
        difference = (one.double() - two.double()).abs()
        self.say(bool(difference.max() <= bound),  # false for NaN too
                 f"{what}: max {difference.max():.2g}, mean {difference.mean():.2g} (bound {bound:.0e})")


def near_identity(module):
    """Norms as after training, about 1: signals keep their size, so that pictures show structure and no overflow."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 1 and "norm" in name and name.endswith("weight") or "lambda1" in name:
                parameter.add_(1.0)
    return module


def make_upstream(folder, encoder_folder):
    torch.manual_seed(5)
    save_encoder(encoder_folder, "dinov2", near_identity(randomise(encoder_model("dinov2", ENCODER_LAYERS, WIDTH), 0.1)))
    place = folder / "decoders/dinov2/wReg_base/tiny/model.pt"
    place.parent.mkdir(parents=True)
    torch.save(near_identity(upstream_decoder(6, WIDTH, GRID, PATCH, DECODER, scale=0.1)).state_dict(), place)
    save_stats(folder / "stats/dinov2/wReg_base/imagenet1k/stat.pt", (WIDTH, GRID, GRID), 7)
    write_json(folder / "configs/decoder/tiny/config.json", decoder_config(DECODER), indent=2)
    dit = near_identity(upstream_dit(DIT, 8, scale=0.15))
    (folder / "DiTs").mkdir()
    torch.save({"model": upstream_dit(DIT, 9).state_dict(), "ema": dit.state_dict(), "step": 1}, folder / "DiTs/stage2_model.pt")
    config = {
        "stage_1": {"target": "stage1.RAE", "params": {
            "encoder_cls": "Dinov2withNorm", "encoder_config_path": str(encoder_folder), "encoder_input_size": GRID * 14,
            "encoder_params": {"dinov2_path": str(encoder_folder), "normalize": True},
            "decoder_config_path": "configs/decoder/tiny",
            "pretrained_decoder_path": "models/decoders/dinov2/wReg_base/tiny/model.pt", "noise_tau": 0.0,
            "reshape_to_2d": True, "normalization_stat_path": "models/stats/dinov2/wReg_base/imagenet1k/stat.pt"}},
        "stage_2": {"target": "stage2.models.DDT.DiTwDDTHead", "params": DIT, "ckpt": "models/DiTs/stage2_model.pt"},
        "transport": {"params": {"path_type": "Linear", "prediction": "velocity", "time_dist_type": "uniform"}},
        "sampler": {"mode": "ODE", "params": {"sampling_method": "euler", "num_steps": 50, "atol": 1e-6, "rtol": 1e-3,
                                              "reverse": False}},
        "guidance": {"method": "cfg", "scale": 1.0, "t-min": 0.0, "t-max": 1.0},
        "misc": {"latent_size": [WIDTH, GRID, GRID], "num_classes": CLASSES, "time_dist_shift_dim": 196608,
                 "time_dist_shift_base": 4096}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def raedit(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"raedit {' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stderr}")
    return done


def resolve(folder, path):
    """Where the authors' path lies in the folder, which stands for their models/ too; other paths are left alone."""
    for candidate in (folder / path, folder / str(path).removeprefix("models/")):
        if candidate.exists():
            return str(candidate)
    return path


def load_with_upstream(folder, config_path, encoder_folder, scratch):
    """(DiTwDDTHead, RAE) as the authors' instantiate_from_config makes them; it loads stage 2 with strict=True itself."""
    from utils.model_utils import instantiate_from_config

    config = yaml.safe_load(config_path.read_text())
    stage_1, stage_2 = config["stage_1"], config["stage_2"]
    stage_2["ckpt"] = resolve(folder, stage_2["ckpt"])
    params = stage_1["params"]
    for key in ("decoder_config_path", "pretrained_decoder_path", "normalization_stat_path"):
        params[key] = resolve(folder, params[key])
    # transformers 5 refuses a patch_size of "SHOULD BE RELOADED"; RAE overwrites it with decoder_patch_size in any case.
    sizes = json.loads((Path(params["decoder_config_path"]) / "config.json").read_text())
    params["decoder_config_path"] = str(scratch)
    write_json(scratch / "config.json", dict(sizes, patch_size=PATCH))
    params["encoder_config_path"] = params["encoder_params"]["dinov2_path"] = str(encoder_folder)
    with contextlib.redirect_stdout(io.StringIO()):
        dit, rae = instantiate_from_config(stage_2).eval(), instantiate_from_config(stage_1).eval()
    # RAE loads its decoder with strict=False.
    rae.decoder.load_state_dict(torch.load(params["pretrained_decoder_path"], map_location="cpu"), strict=True)
    return dit, rae


def generate(program, model, noise, guidance, output):
    ids = [argument for label in LABELS for argument in ("--class-id", label)]
    raedit(program, "generate", "--model", model, "--latents", noise, *ids, "--steps", STEPS, "--guidance", guidance,
           "--output", output, "--quiet")
    return load_file(output)["images"]


def compare_pictures(report, args, upstream, converted):
    noise = args.workdir / "noise.safetensors"
    latents = torch.randn(len(LABELS), WIDTH, GRID, GRID, generator=torch.Generator().manual_seed(1))
    save_file({"latents": latents}, noise)
    pipeline = diffusers.RAEDiTPipeline.from_pretrained(converted)
    pipeline.set_progress_bar_config(disable=True)
    strict = reference.load_pipeline(str(converted))
    for part in ("transformer", "vae"):
        one, two = getattr(pipeline, part).state_dict(), getattr(strict, part).state_dict()
        same = one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
        report.say(same, f"RAEDiTPipeline.from_pretrained, {part}: {len(two)} tensors, none missing, none left over")
    for guidance in (1, 3):
        result = pipeline(list(LABELS), guidance_scale=float(guidance), latents=latents, num_inference_steps=STEPS,
                          output_type="pt").images
        ours = generate(args.raedit, converted, noise, guidance, args.workdir / f"converted{guidance}.safetensors")
        inside = ((ours > 0) & (ours < 1)).float().mean()
        report.say(bool(inside > 0.5) and bool(ours.std() > 0.05),
                   f"guidance {guidance}: pictures worth comparing ({inside:.0%} of the values inside [0, 1], deviation "
                   f"{ours.std():.2f})")
        report.within(f"guidance {guidance}, {STEPS} steps: diffusers and raedit on the converted folder", result, ours, PICTURES)
        direct = generate(args.raedit, upstream, noise, guidance, args.workdir / f"upstream{guidance}.safetensors")
        report.say(torch.equal(direct, ours), f"guidance {guidance}: raedit on the upstream folder, the same bits")
    return strict


def compare_upstream(report, what, dit, rae, other_dit, other_decode, other_encode,
                     decoded=OUTPUTS, encoded=OUTPUTS):
    random = torch.Generator().manual_seed(2)
    x, t = torch.randn(2, WIDTH, GRID, GRID, generator=random), torch.rand(2, generator=random)
    picture, y = torch.rand(1, 3, GRID * 14, GRID * 14, generator=random), torch.tensor(LABELS)
    with torch.no_grad():
        report.within(f"{what}: velocity", dit(x, t, y), other_dit(x, t, y), OUTPUTS)
        report.within(f"{what}: decoded latents", rae.decode(x), other_decode(x), decoded)
        report.within(f"{what}: encoded picture", rae.encode(picture), other_encode(picture), encoded)


def compare_export(report, original, exported, encoder_folder, scratch):
    configs = sorted(exported.rglob("*.yaml"))
    if len(configs) != 1:
        return report.say(False, f"exported: one YAML expected, found {[path.name for path in configs]}")
    try:
        dit, rae = load_with_upstream(exported, configs[0], encoder_folder, scratch)
    except RuntimeError as error:
        return report.say(False, f"exported: the authors' code says {str(error)[:500]}")
    for name, one, two in (("DiTwDDTHead", original[0], dit), ("GeneralDecoder", original[1].decoder, rae.decoder)):
        a, b = one.state_dict(), two.state_dict()
        wrong = [key for key in a if not torch.equal(a[key], b[key])]
        report.say(not wrong, f"exported, loaded by the authors' {name} with strict=True: {len(a)} tensors, "
                   + (f"different: {wrong[:5]}" if wrong else "all equal to the original's bit for bit"))
    compare_upstream(report, "exported and original, authors' code", *original, dit, rae.decode, rae.encode)


def compare_epsilon(report, args, rae, upstream, encoder, folder):
    """The default keeps the script's statistics, whose epsilon counts twice at run time; this is the other choice."""
    raedit(args.raedit, "convert", "pipeline", "--repo_or_path", upstream, "--config_path", "config.yaml",
           "--encoder_name_or_path", encoder, "--latents_std", "upstream", "--output_path", folder)
    vae = reference.load_pipeline(str(folder)).vae
    random = torch.Generator().manual_seed(2)
    picture, x = torch.rand(1, 3, GRID * 14, GRID * 14, generator=random), torch.randn(2, WIDTH, GRID, GRID, generator=random)
    with torch.no_grad():
        what = "with --latents_std upstream, authors' code and diffusers"
        report.within(f"{what}: encoded picture", rae.encode(picture), vae.encode(picture).latent, OUTPUTS)
        report.within(f"{what}: decoded latents", rae.decode(x), vae.decode(x).sample, OUTPUTS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raedit", help="the program; `none` makes upstream/ and runs the authors' code on it, no more")
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--rae", required=True, help="checkout of the authors' repository")
    parser.add_argument("--keep", action="store_true", help="leave WORKDIR's folders")
    args = parser.parse_args()
    use_rae(args.rae)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    args.workdir = args.workdir.resolve()
    names = ("upstream", "encoder", "converted", "exported", "scratch", "epsilon")
    folders = upstream, encoder, converted, exported, scratch, _ = [args.workdir / name for name in names]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    make_upstream(upstream, encoder)
    original = load_with_upstream(upstream, upstream / "config.yaml", encoder, scratch)
    if args.raedit == "none":
        return
    report = Report()
    raedit(args.raedit, "convert", "pipeline", "--repo_or_path", upstream, "--config_path", "config.yaml",
           "--encoder_name_or_path", encoder, "--output_path", converted)
    pipeline = compare_pictures(report, args, upstream, converted)
    vae = pipeline.vae
    compare_upstream(report, "authors' code and diffusers on the converted folder", *original,
                     lambda x, t, y: pipeline.transformer(x, timestep=t, class_labels=y).sample,
                     lambda z: vae.decode(z).sample, lambda picture: vae.encode(picture).latent, DECODED, ENCODED)
    compare_epsilon(report, args, original[1], upstream, encoder, args.workdir / "epsilon")
    raedit(args.raedit, "convert", "export", "--model", converted, "--output_path", exported)
    compare_export(report, original, exported, encoder, scratch)
    if not args.keep:
        for folder in folders:
            shutil.rmtree(folder)
    sys.exit(report.failed)


if __name__ == "__main__":
    main()
