"""Make tests/parity/data/convert: upstream checkpoints of tiny models in many packings, and what the reference scripts make of them.

    PYTHONPATH=TRANSFORMERS4:DIFFUSERS/src python tools/convert_reference.py OUT --part rae --scripts DIFFUSERS/scripts --rae RAE
    PYTHONPATH=DIFFUSERS/src python tools/convert_reference.py OUT --part rest --scripts DIFFUSERS/scripts --rae RAE
    PYTHONPATH=DIFFUSERS/src python tools/convert_reference.py --folder IN CONFIG EXPECTED --scripts DIFFUSERS/scripts

The third form converts every .pt of a folder with the YAML file CONFIG and writes EXPECTED/NAME.json and the safetensors.

The part rae comes first: the other compares with it. The inputs come from the authors' own classes (RAE a4d18c4: DiTwDDTHead, GeneralDecoder), the results from the two scripts of
diffusers PR 13231 (head e3d065493c), which run unchanged but for the patches that a case names. Two calls, because of two
versions of transformers. Stage 1 needs 4.57: 5.x has no SiglipVisionModel.vision_model and other names for MAE's tensors than
the published files, so that script fails there. RAEDiTPipeline needs a newer huggingface_hub than 4.57 takes.

cases.json: a list of
    name, command ("stage2" | "rae" | "pipeline"; "pipeline_of_stage2" is `stage2` with {vae}, the result of the case that
                `vae` names, and "model_index" expected too), args ({data} is OUT, {encoder} the folder of the encoder),
    expected    expected/NAME.json, relative to OUT: {"tensors": {name: [dtype, shape, SHA-256]}, "config": ..., and, of a
                transformer, "scheduler"}; of a pipeline {"transformer": file, "vae": file}; where "guide" is given, that of
                guide_transformer/
    fails       instead of expected: true, with what the reference says in "reference"; "mentions" is what a message must name
    encoder     for rae: the folder with config.json, preprocessor_config.json and weights.recipe.json (below), or a whole one
    layout      "single" | "sharded" | "as_is": how the reader of the recipe writes the encoder
    patches     what was changed in the script for this case
    kept        of an autoencoder: tensors that raedit takes over from the checkpoint and the script leaves out (diffusers computes
                decoder_pos_embed itself and ignores it in files); not in `expected`, same form
    computed    tensors that are not in the checkpoint: the reference computes them with its own sine and cosine. Their values are
                in tables.safetensors, for a comparison with a tolerance.

weights.recipe.json {tensor: shape} stands for float32 tensors too large to keep: recipe_tensors.py.
"""

import argparse
import copy
import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections import OrderedDict
from contextlib import redirect_stdout
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml
from make_upstream_checkpoints import (PROCESSORS, decoder_config, encoder_model, save_encoder, save_stats, upstream_decoder,
                                       upstream_dit, use_rae, write_json)
from recipe_tensors import recipe_tensor
from safetensors.torch import load_file, save_file

STAGE2_SCRIPT = "convert_rae_stage2_to_diffusers.py"
RAE_SCRIPT = "convert_rae_to_diffusers.py"
TABLES = ["pos_embed", "enc_feat_rope.freqs_cos", "enc_feat_rope.freqs_sin", "dec_feat_rope.freqs_cos", "dec_feat_rope.freqs_sin"]
DECODER = dict(decoder_hidden_size=16, decoder_intermediate_size=24, decoder_num_attention_heads=2, decoder_num_hidden_layers=1)
WIDTH, GRID, DECODER_PATCH = 64, 2, 2
IGNORED = ("_diffusers_version", "_name_or_path")


def script(folder, name):
    spec = importlib.util.spec_from_file_location(name[:-3], os.path.join(folder, name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(module, args):
    """The script's own argument parser, so that defaults are the script's."""
    before, sys.argv = sys.argv, ["script", *args]
    try:
        return module.parse_args()
    finally:
        sys.argv = before


def run(module, args):
    with redirect_stdout(io.StringIO()):
        module.convert(parse(module, args))


def read_json(path):
    with open(path) as file:
        return json.load(file)


def digest(tensors):
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", torch.int64: "I64"}
    result = {}
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        raw = tensor.view(torch.uint8) if tensor.dim() else tensor.reshape(1).view(torch.uint8)
        result[name] = [names[tensor.dtype], list(tensor.shape), hashlib.sha256(raw.numpy().tobytes()).hexdigest()]
    return result


def expectation(model, scheduler=None):
    value = {"config": {k: v for k, v in read_json(model / "config.json").items() if k not in IGNORED},
             "tensors": digest(load_file(model / "diffusion_pytorch_model.safetensors"))}
    if scheduler:
        value["scheduler"] = {k: v for k, v in read_json(scheduler / "scheduler_config.json").items() if k not in IGNORED}
    return value


def write_expectation(path, value):
    """One line per tensor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'  {json.dumps(name)}: {json.dumps(entry)}' for name, entry in value["tensors"].items()]
    rest = "".join(f' "{key}": {json.dumps(value[key])},\n' for key in ("config", "scheduler") if key in value)
    path.write_text("{\n" + rest + ' "tensors": {\n' + ",\n".join(lines) + "\n }\n}\n")


# --- stage 2 ---

SIZE = dict(input_size=4, patch_size=1, in_channels=8, hidden_size=[4, 8], depth=[1, 1], num_heads=[1, 2], mlp_ratio=4.0,
            class_dropout_prob=0.1, num_classes=10, use_qknorm=False, use_swiglu=True, use_rope=True, use_rmsnorm=True,
            wo_shift=False, use_pos_embed=True)
LINES = """transport:
  params:
    path_type: 'Linear'
    prediction: 'velocity'
    time_dist_type: 'uniform'
sampler:
  mode: ODE
  params:
    sampling_method: 'euler'
    num_steps: 50
    atol: 1e-6
    rtol: 1e-3
    reverse: False
"""


def section(values, indent):
    show = {True: "True", False: "False"}
    return "".join(f"{' ' * indent}{key}: {show[v] if isinstance(v, bool) else v}\n" for key, v in values.items())


def config_text(size, ckpt="models/checkpoints/bare.pt", guidance="", path_type="Linear", misc=None, stage_1="", raw=None):
    """YAML as the authors write it: their keys, their order, numbers such as 1e-6, comments."""
    text = stage_1 + "stage_2:\n  target: stage2.models.DDT.DiTwDDTHead\n  params:\n" + (raw or section(size, 4))
    text += f"  ckpt: '{ckpt}'\n" if ckpt else ""
    text += LINES.replace("'Linear'", f"'{path_type}'")
    text += guidance or "guidance:\n  method: 'cfg'\n  scale: 1.0\n  t-min: 0.0\n  t-max: 1.0\n"
    grid = size["input_size"]
    text += misc if misc is not None else (
        f"misc:\n  latent_size: [{size['in_channels']}, {grid}, {grid}] # [C, H, W]\n  num_classes: {size['num_classes']}\n"
        f"  time_dist_shift_dim: {grid * grid * 512}\n  time_dist_shift_base: 4096\n")
    return text


def training_dict(model, ema):
    """What train.py saves, with an optimizer that took a step."""
    trained = [p for p in model.parameters() if p.requires_grad and p.numel() < 8]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, betas=(0.9, 0.95), weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    state = copy.deepcopy(model.state_dict())
    for p in trained:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return {"step": 1, "epoch": 0, "model": state, "ema": ema.state_dict(), "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict()}


def prefixed(state, prefix):
    return OrderedDict((prefix + name, value) for name, value in state.items())


def one_storage(state):
    """The same tensors as strided views of one storage: even ones contiguous, matrices transposed."""
    flat, views, at = torch.empty(sum(v.numel() for v in state.values())), {}, 0
    for k, (name, value) in enumerate(state.items()):
        piece = flat[at:at + value.numel()]
        at += value.numel()
        view = piece.view(value.shape) if k % 2 == 0 or value.dim() != 2 else piece.view(value.shape[::-1]).t()
        view.copy_(value)
        views[name] = view
    return views


def deflate(source, target):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(zipfile.ZipInfo(entry.filename), old.read(entry), zipfile.ZIP_DEFLATED)


def make_stage2_inputs(root):
    """checkpoints/ and configs/; returns the variants' sizes."""
    points, configs = root / "checkpoints", root / "configs"
    points.mkdir(parents=True)
    configs.mkdir()
    model, ema = upstream_dit(SIZE, 1), upstream_dit(SIZE, 2)
    bare = ema.state_dict()
    torch.save(training_dict(model, ema), points / "training.pt")
    torch.save(bare, points / "bare.pt")
    torch.save({"ema": bare}, points / "ema_only.pt")
    torch.save(bare, points / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in bare.items()}, points / "bfloat16.pt")
    for name, prefix in {"module": "module.", "model_module": "model.module.", "orig_mod": "_orig_mod.",
                         "module_orig_mod": "module._orig_mod."}.items():
        torch.save({"ema": prefixed(bare, prefix)}, points / f"{name}.pt")
    torch.save({"a": {"b": {k: torch.nn.Parameter(v) for k, v in bare.items()}}, "ema": {"W": torch.ones(2)}},
               points / "nested_parameters.pt")
    torch.save(one_storage(bare), points / "one_storage.pt")
    deflate(points / "bare.pt", points / "deflated.pt")
    save_file({k: v.contiguous() for k, v in bare.items()}, points / "bare.safetensors")
    torch.save({k: v for k, v in bare.items() if k not in TABLES}, points / "no_tables.pt")
    torch.save(upstream_dit(SIZE, 3, learned_pos=True).state_dict(), points / "learned_pos_embed.pt")
    variants = {
        "gelu": dict(SIZE, use_swiglu=False),
        "qknorm": dict(SIZE, use_qknorm=True),
        "layernorm_qknorm": dict(SIZE, use_qknorm=True, use_rmsnorm=False, use_swiglu=False),
        "plain": dict(SIZE, use_rope=False, use_pos_embed=False, wo_shift=True, class_dropout_prob=0.0),
        "same_width": dict(SIZE, hidden_size=[4, 4], num_heads=1, depth=[2, 1]),
        "guide": dict(SIZE, num_heads=[1, 1], mlp_ratio=2.0),
    }
    (configs / "base.yaml").write_text(config_text(SIZE))
    for k, (name, size) in enumerate(variants.items()):
        built = dict(size, num_heads=[1, 1]) if name == "same_width" else size
        torch.save(upstream_dit(built, 10 + k).state_dict(), points / f"{name}.pt")
        (configs / f"{name}.yaml").write_text(config_text(size, ckpt=f"models/checkpoints/{name}.pt"))
    guide = "guidance:\n  method: 'autoguidance'\n  scale: 1.42\n  t-min: 0.0\n  t-max: 1.0\n  guidance_model:\n"
    guide += "    target: stage2.models.DDT.DiTwDDTHead\n    params:\n" + section(variants["guide"], 6)
    guide += "    ckpt: 'models/checkpoints/guide.pt'\n"
    (configs / "autoguidance.yaml").write_text(config_text(SIZE, guidance=guide))
    linked = section(SIZE, 4).replace("num_classes: 10", "num_classes: ${misc.num_classes}").replace(
        "in_channels: 8", "in_channels: ${misc.latent_size[0]}").replace("input_size: 4", "input_size: ${misc.latent_size.1}")
    (configs / "interpolation.yaml").write_text(
        "name: bare\n" + config_text(SIZE, ckpt="models/checkpoints/${name}.pt", raw=linked))
    wrong = {
        "missing_block": ("blocks.2.", config_text(dict(SIZE, depth=[1, 2]))),
        "block_of_other_width": ("blocks.1.", config_text(dict(SIZE, depth=[2, 1]))),
        "wrong_classes": ("y_embedder.embedding_table.weight", config_text(dict(SIZE, num_classes=12))),
        "missing_qknorm": ("_norm.weight", config_text(dict(SIZE, use_qknorm=True))),
        "unexpected_qknorm": ("_norm.weight", config_text(SIZE, ckpt="models/checkpoints/qknorm.pt")),
        "gelu_wanted": ("blocks.0.mlp.", config_text(dict(SIZE, use_swiglu=False))),
        "not_linear": ("GVP", config_text(SIZE, path_type="GVP")),
        "latent_channels": ("9", config_text(SIZE, misc="misc:\n  latent_size: [9, 4, 4]\n")),
        "no_misc": ("misc", config_text(SIZE, misc="")),
        "no_latent_size": ("latent_size", config_text(SIZE, misc="misc:\n  num_classes: 10\n")),
        "no_checkpoint": ("checkpoint_path", config_text(SIZE, ckpt=None)),
        "absent_checkpoint": ("models/checkpoints/nothing.pt", config_text(SIZE, ckpt="models/checkpoints/nothing.pt")),
    }
    for name, (_, text) in wrong.items():
        (configs / f"wrong_{name}.yaml").write_text(text)
    return variants, {name: mentioned for name, (mentioned, _) in wrong.items()}


def stage2_cases(out, folder):
    root = out / "stage2"
    module = script(folder, STAGE2_SCRIPT)
    variants, wrong = make_stage2_inputs(root)
    cases, made = [], {}

    def convert(args):
        with tempfile.TemporaryDirectory() as temporary:
            run(module, [*args, "--output_path", temporary, "--safe_serialization"])
            path = Path(temporary)
            return expectation(path / "transformer", path / "scheduler"), load_file(
                path / "transformer" / "diffusion_pytorch_model.safetensors")

    def add(name, config="base", checkpoint=None, extra=(), same=None, patches=None, **more):
        """same: the case whose result the reference cannot give here, with the reason in patches."""
        args = ["--repo_or_path", "{data}/stage2", "--config_path", f"configs/{config}.yaml"]
        args += ["--checkpoint_path", f"checkpoints/{checkpoint}"] if checkpoint else []
        args += list(extra)
        case = dict(name=f"stage2_{name}", command="stage2", args=args, **more)
        if patches:
            case["patches"] = patches
        if same:
            case["expected"] = made[same]
        else:
            value, tensors = convert([a.replace("{data}", str(out)) for a in args])
            key = json.dumps(value, sort_keys=True)
            if key not in made:
                made[key] = f"expected/stage2_{name}.json"
                write_expectation(out / made[key], value)
            case["expected"] = made[f"case:{name}"] = made[key]
            if more.get("computed"):
                save_file({k: tensors[k] for k in TABLES}, out / "tables.safetensors")
        made[name] = case["expected"]
        cases.append(case)

    add("bare")
    for name in ("training", "ema_only", "legacy", "module", "model_module", "one_storage", "deflated"):
        add(name, checkpoint=f"{name}.pt")
        assert made[name] == made["bare"], name
    add("bfloat16", checkpoint="bfloat16.pt")
    add("safetensors", checkpoint="bare.safetensors")
    add("disable_ema", checkpoint="training.pt", extra=["--disable_ema"])
    add("key_model", checkpoint="training.pt", extra=["--checkpoint_key", "model"])
    add("key_nested", checkpoint="nested_parameters.pt", extra=["--checkpoint_key", "a.b"])
    assert made["safetensors"] == made["key_nested"] == made["bare"] and made["disable_ema"] == made["key_model"] != made["bare"]
    for name in ("orig_mod", "module_orig_mod"):
        add(name, checkpoint=f"{name}.pt", same="bare",
            patches="none possible: the script knows no _orig_mod. prefix; the result is that of the same weights without it")
    add("no_tables", checkpoint="no_tables.pt", computed=TABLES)
    add("learned_pos_embed", checkpoint="learned_pos_embed.pt")
    for name in variants:
        add(name, config=name)
    add("autoguidance", config="autoguidance", guide=made["guide"])
    assert made["autoguidance"] == made["bare"]
    add("interpolation", config="interpolation", same="bare",
        patches="none possible: the script reads YAML without OmegaConf; the result is that of the resolved file")
    check_interpolation(root)
    for name, mentioned in wrong.items():
        args = ["--repo_or_path", "{data}/stage2", "--config_path", f"configs/wrong_{name}.yaml"]
        try:
            convert([a.replace("{data}", str(out)) for a in args])
        except Exception as error:
            said = str(error).replace(str(out), "{data}")
            cases.append(dict(name=f"stage2_wrong_{name}", command="stage2", args=args, fails=True, mentions=mentioned,
                              reference=f"{type(error).__name__}: {said[:300]}"))
        else:
            raise SystemExit(f"{name} converts")
    return cases


def check_interpolation(root):
    """OmegaConf must read interpolation.yaml as base.yaml."""
    from omegaconf import OmegaConf

    linked = OmegaConf.to_container(OmegaConf.load(root / "configs" / "interpolation.yaml"), resolve=True)
    linked.pop("name")
    if linked != OmegaConf.to_container(OmegaConf.load(root / "configs" / "base.yaml"), resolve=True):
        raise SystemExit("interpolation.yaml does not resolve to base.yaml")


# --- stage 1 ---


def tiny_decoder(seed):
    return upstream_decoder(seed, WIDTH, GRID, DECODER_PATCH, DECODER)


def tiny_stats(path, choose=lambda mean, var: {"mean": mean, "var": var}):
    """torch takes float32 roots from MKL, which is off by one in the last place on some processors: variances of which the
    script's root is the correctly rounded one, so that the expected bits are the same everywhere."""

    def rounded_alike(mean, var):
        flat, random = var.flatten(), torch.Generator().manual_seed(79)
        while True:
            root = torch.sqrt(flat + 1e-5)
            wrong = root != torch.sqrt((flat + 1e-5).double()).float()
            if not wrong.any():
                return choose(mean, var)
            flat[wrong] = torch.rand(int(wrong.sum()), generator=random) + 0.1

    save_stats(path, (WIDTH, GRID, GRID), 78, rounded_alike)


def fill(model):
    """Random values for every parameter, by recipe."""
    state = model.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            if value.is_floating_point():
                value.copy_(recipe_tensor(name, list(value.shape) or [1]).reshape(value.shape))
    return {name: list(value.shape) for name, value in state.items() if value.is_floating_point()}


def make_encoders(root, scratch):
    """rae/encoders/KIND: config, processor and recipe; whole ones in scratch. dinov2_bin is whole and in bfloat16."""
    for kind in PROCESSORS:
        model = encoder_model(kind, 12, WIDTH)
        recipe = fill(model)
        folder = root / "encoders" / kind
        folder.mkdir(parents=True)
        for name, options in (("single", {}), ("sharded", dict(max_shard_size="1MB"))):
            whole = scratch / f"{kind}_{name}"
            model.save_pretrained(whole, **options)
            write_json(whole / "preprocessor_config.json", PROCESSORS[kind])
        shutil.copy(scratch / f"{kind}_single" / "config.json", folder)
        write_json(folder / "preprocessor_config.json", PROCESSORS[kind])
        write_json(folder / "weights.recipe.json", recipe, indent=0)
        tensors = load_file(scratch / f"{kind}_single" / "model.safetensors")
        assert {k: list(v.shape) for k, v in tensors.items()} == recipe, kind
    folder = root / "encoders" / "dinov2_bin"
    model = encoder_model("dinov2", 1, WIDTH)
    fill(model)
    model.config.save_pretrained(folder)
    state = model.to(torch.bfloat16).state_dict()
    # Rows that overlap in storage: 3 KB on disk, and strides that a reader must honour.
    rows, width = state["embeddings.position_embeddings"].shape[1:]
    base = recipe_tensor("position_embeddings", [rows + width - 1]).to(torch.bfloat16)
    state["embeddings.position_embeddings"] = base.as_strided((1, rows, width), (rows, 1, 1))
    torch.save(state, folder / "pytorch_model.bin")
    write_json(folder / "preprocessor_config.json",
               dict(PROCESSORS["dinov2"], image_mean=[0.25, 0.5, 0.75], image_std=[0.125, 0.3, 0.6]))


def make_rae_inputs(root):
    torch.manual_seed(77)
    repo = root / "repo"
    decoder, other = tiny_decoder(21), tiny_decoder(22)
    main = repo / "decoders/dinov2/wReg_base/tiny"
    for place in (main, repo / "decoders/mae/base_p16/tiny", repo / "decoders/siglip2/base_p16_i256/tiny"):
        place.mkdir(parents=True)
        torch.save(decoder.state_dict(), place / "model.pt")
    torch.save(decoder.state_dict(), main / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"model": prefixed(decoder.state_dict(), "module.decoder.")}, main / "wrapped.pt")
    encoder = {f"encoder.encoder.{name}": torch.randn(shape) for name, shape in
               {"embeddings.cls_token": (1, 1, 8), "encoder.layer.0.norm1.weight": (8,),
                "encoder.layer.0.attention.attention.query.weight": (8, 8)}.items()}

    def whole(part):
        state = OrderedDict(encoder)
        state.update(prefixed(part.state_dict(), "decoder."))
        return state

    training = {"step": 5, "epoch": 1, "model": whole(other), "ema": whole(decoder), "optimizer": {"state": {}, "param_groups": []},
                "scheduler": None, "disc": {"head.weight": torch.randn(2, 2)}}
    torch.save(training, main / "training.pt")
    torch.save({"model": prefixed(whole(decoder), "module._orig_mod.")}, main / "compiled.pt")
    torch.save(other.state_dict(), main / "other.pt")
    tiny_stats(repo / "stats/dinov2/wReg_base/imagenet1k/stat.pt")
    tiny_stats(repo / "stats/siglip2/base_p16_i256/ImageNet1k/stat.pt")
    tiny_stats(repo / "stats/variance_only.pt", choose=lambda mean, var: {"var": var})
    tiny_stats(repo / "stats/latents.pt", choose=lambda mean, var: {"latents_mean": mean, "latents_std": var.sqrt()})
    write_json(repo / "configs/decoder/tiny/config.json", decoder_config(DECODER), indent=2)


def stage_1_text(encoder, size, patch, variant):
    """patch: None for the authors' default of 16."""
    return ("stage_1:\n  target: stage1.RAE\n  params:\n    encoder_cls: 'Dinov2withNorm'\n"
            f"    encoder_config_path: '{encoder}'\n    encoder_input_size: {size}\n"
            f"    encoder_params: {{'dinov2_path': '{encoder}', 'normalize': True}}\n"
            "    decoder_config_path: 'configs/decoder/tiny'\n" + (f"    decoder_patch_size: {patch}\n" if patch else "") +
            f"    pretrained_decoder_path: 'models/decoders/dinov2/wReg_base/{variant}/model.pt'\n"
            "    noise_tau: 0.\n    reshape_to_2d: True\n"
            "    normalization_stat_path: 'models/stats/dinov2/wReg_base/imagenet1k/stat.pt'\n")


def rae_cases(out, folder):
    root = out / "rae"
    module = script(folder, RAE_SCRIPT)
    module.DECODER_CONFIGS["tiny"] = DECODER
    plain = module.AutoencoderRAE
    cases, made = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        make_encoders(root, scratch)
        make_rae_inputs(root)

        def add(name, kind="dinov2", encoder=None, layout="single", extra=(), same=None, layers=None, patches=""):
            pixels = GRID * (14 if kind == "dinov2" else 16)
            args = ["--repo_or_path", "{data}/rae/repo", "--encoder_type", kind, "--encoder_name_or_path", "{encoder}",
                    "--decoder_config_name", "{data}/rae/repo/configs/decoder/tiny/config.json", "--variant", "tiny",
                    "--encoder_input_size", str(pixels), "--patch_size", str(DECODER_PATCH), *extra]
            case = dict(name=f"rae_{name}", command="rae", args=args, encoder=f"rae/encoders/{encoder or kind}", layout=layout)
            notes = ["DECODER_CONFIGS has this decoder's sizes."] if not same else [patches]
            if layers and not same:
                notes.append("AutoencoderRAE is given encoder_num_hidden_layers, which the script leaves at 12.")
            case["patches"] = " ".join(notes)
            if same:
                case["expected"] = made[same]
            else:
                where = str(out / case["encoder"]) if layout == "as_is" else str(scratch / f"{kind}_{layout}")
                args = [{"{encoder}": where, args[7]: "tiny"}.get(a, a.replace("{data}", str(out))) for a in args]
                if layers:
                    module.AutoencoderRAE = lambda **options: plain(encoder_num_hidden_layers=layers, **options)
                target = scratch / name
                run(module, [*args, "--output_path", str(target)])
                module.AutoencoderRAE = plain
                value = expectation(target)
                key = json.dumps(value, sort_keys=True)
                if key not in made:
                    made[key] = f"expected/rae_{name}.json"
                    write_expectation(out / made[key], value)
                case["expected"] = made[key]
            made[name] = case["expected"]
            case["kept"] = kept
            cases.append(case)

        kept = digest({"decoder.decoder_pos_embed": tiny_decoder(21).state_dict()["decoder_pos_embed"]})
        here = "decoders/dinov2/wReg_base/tiny/"
        add("dinov2")
        add("sharded", layout="sharded")
        add("legacy", extra=["--decoder_checkpoint", here + "legacy.pt"])
        add("wrapped", extra=["--decoder_checkpoint", here + "wrapped.pt"])
        assert made["sharded"] == made["legacy"] == made["wrapped"] == made["dinov2"]
        one = dict(encoder="dinov2_bin", layout="as_is", layers=1)
        add("bin", **one)
        add("other", extra=["--decoder_checkpoint", here + "other.pt"], **one)
        whole = "none possible: the script takes decoder-only files; the result is that of the decoder in this one"
        add("training", extra=["--decoder_checkpoint", here + "training.pt"], same="dinov2", patches=whole)
        add("training_disable_ema", extra=["--decoder_checkpoint", here + "training.pt", "--disable_ema"], same="other",
            patches=whole, **one)
        add("compiled", extra=["--decoder_checkpoint", here + "compiled.pt"], same="dinov2", patches=whole)
        add("variance_only", extra=["--stats_checkpoint", "stats/variance_only.pt"], **one)
        add("latents_stats", extra=["--stats_checkpoint", "stats/latents.pt", "--scaling_factor", "0.5"], **one)
        add("mae", kind="mae")
        add("siglip2", kind="siglip2")
    return cases


def pipeline_cases(out, folder):
    """A repository with all three parts; the autoencoder is that of the case rae_dinov2."""
    root = out / "pipeline"
    size = dict(SIZE, input_size=GRID, in_channels=WIDTH, num_classes=1000)
    place = root / "decoders/dinov2/wReg_base/tiny"
    place.mkdir(parents=True)
    torch.save(tiny_decoder(21).state_dict(), place / "model.pt")
    tiny_stats(root / "stats/dinov2/wReg_base/imagenet1k/stat.pt")
    write_json(root / "configs/decoder/tiny/config.json", decoder_config(DECODER), indent=2)
    (root / "DiTs").mkdir()
    torch.save(upstream_dit(size, 31).state_dict(), root / "DiTs/stage2_model.pt", _use_new_zipfile_serialization=False)
    text = config_text(size, ckpt="models/DiTs/stage2_model.pt",
                       stage_1=stage_1_text("facebook/dinov2-with-registers-base", GRID * 14, DECODER_PATCH, "tiny"))
    (root / "configs/pipeline.yaml").write_text(text)
    labels = {"0": "tench, Tinca tinca", "388": "giant panda, panda", "999": "toilet tissue, toilet paper, bathroom tissue"}
    write_json(root / "labels.json", labels)
    expected = {"transformer": "expected/pipeline_transformer.json", "vae": "expected/rae_dinov2.json"}
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        encoder = encoder_model("dinov2", 12, WIDTH)
        fill(encoder)
        save_encoder(scratch / "encoder", "dinov2", encoder)
        rae = script(folder, RAE_SCRIPT)
        rae.DECODER_CONFIGS["tiny"] = DECODER
        run(rae, ["--repo_or_path", str(root), "--encoder_type", "dinov2", "--encoder_name_or_path", str(scratch / "encoder"),
                  "--decoder_config_name", "tiny", "--variant", "tiny", "--encoder_input_size", str(GRID * 14), "--patch_size",
                  str(DECODER_PATCH), "--output_path", str(scratch / "vae")])
        run(script(folder, STAGE2_SCRIPT), ["--repo_or_path", str(root), "--config_path", "configs/pipeline.yaml",
                                             "--vae_model_name_or_path", str(scratch / "vae"), "--id2label_json_path",
                                             str(root / "labels.json"), "--output_path", str(scratch / "whole"),
                                             "--safe_serialization"])
        write_expectation(out / expected["transformer"],
                          expectation(scratch / "whole/transformer", scratch / "whole/scheduler"))
        if (out / expected["vae"]).exists():
            known, made = read_json(out / expected["vae"]), expectation(scratch / "whole/vae")
            assert made == known, "the autoencoder of the pipeline is not that of rae_dinov2"
        index = {k: v for k, v in read_json(scratch / "whole/model_index.json").items() if k not in IGNORED}
    kept = digest({"decoder.decoder_pos_embed": tiny_decoder(21).state_dict()["decoder_pos_embed"]})
    base = ["--repo_or_path", "{data}/pipeline", "--config_path", "configs/pipeline.yaml"]
    return [dict(name="pipeline", command="pipeline", encoder="rae/encoders/dinov2", layout="single",
                 args=[*base, "--encoder_name_or_path", "{encoder}"], kept=kept, expected=expected),
            dict(name="pipeline_of_stage2", command="pipeline_of_stage2", vae="rae_dinov2", args=[
                 *base, "--vae_model_name_or_path", "{vae}", "--id2label_json_path", "{data}/pipeline/labels.json"],
                 kept=kept, expected=dict(expected, model_index=index))]


def convert_folder(folder, config, expected, scripts):
    module = script(scripts, STAGE2_SCRIPT)
    for path in sorted(Path(folder).glob("*.pt")):
        target = Path(expected) / path.stem
        run(module, ["--repo_or_path", str(folder), "--config_path", str(Path(config).resolve()), "--checkpoint_path",
                     path.name, "--output_path", str(target), "--safe_serialization"])
        write_expectation(Path(expected) / f"{path.stem}.json", expectation(target / "transformer", target / "scheduler"))
        print(path.name, hashlib.sha256((target / "transformer/diffusion_pytorch_model.safetensors").read_bytes()).hexdigest())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?")
    parser.add_argument("--scripts", required=True, help="scripts folder of diffusers PR 13231")
    parser.add_argument("--rae", help="checkout of the authors' RAE repository")
    parser.add_argument("--part", choices=["rest", "rae"], default="rest", help="rae first; the other part of OUT stays as it is")
    parser.add_argument("--folder", nargs=3, metavar=("IN", "CONFIG", "EXPECTED"))
    args = parser.parse_args()
    if args.folder:
        return convert_folder(*args.folder, args.scripts)
    use_rae(args.rae)
    out = Path(args.out)
    path = out / "cases.json"
    cases = read_json(path)["cases"] if path.exists() else []
    parts = {"rae": [("rae", rae_cases)], "rest": [("stage2", stage2_cases), ("pipeline", pipeline_cases)]}[args.part]
    for part, make in parts:
        shutil.rmtree(out / part, ignore_errors=True)
        cases = [case for case in cases if not case["command"].startswith(part)] + make(out, args.scripts)
    order = ["stage2", "rae", "pipeline", "pipeline_of_stage2"]
    cases.sort(key=lambda case: order.index(case["command"]))
    versions = {"upstream": "bytetriper/RAE a4d18c4", "diffusers": "PR 13231 head e3d065493c", "torch": torch.__version__,
                "transformers": "4.57 for stage 1, 5.17 for the rest"}
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    path.write_text(f'{{\n "versions": {json.dumps(versions)},\n "cases": [\n{lines}\n ]\n}}\n')
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{len(cases)} cases, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
