"""What the tools that run the reference code share: strict loading of its models, and the versions that ran.

PYTHONPATH must hold the src folder of diffusers PR 13231 (head e3d065493c), and transformers 5.17: from some later version on
(5.23 for certain) DINOv2 has other parameter names (q_proj for attention.query), and AutoencoderRAE then loads random weights
with a warning instead of failing. strict() catches that.
"""

import json
import os
import sys

import torch

DIFFUSERS = "PR 13231 head e3d065493c"


def versions():
    import diffusers
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__, "diffusers": DIFFUSERS,
            "diffusers_version": diffusers.__version__}


def strict(cls, folder, dtype=torch.float32):
    """cls.from_pretrained(folder), which must find every tensor it wants, in its shape, and no other."""
    with open(os.path.join(folder, "config.json")) as file:
        if json.load(file)["_class_name"] != cls.__name__:
            raise SystemExit(f"{folder}: not a {cls.__name__}")
    model, info = cls.from_pretrained(folder, torch_dtype=dtype, output_loading_info=True)
    wrong = {key: value for key, value in info.items() if value}
    if wrong:
        raise SystemExit(f"{folder}: not strict: {wrong}")
    dtypes = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    if dtypes != {dtype}:
        # Without accelerate, diffusers looks at one tensor only (pos_embed, encoder_mean) and casts none if that one fits.
        print(f"{folder}: loaded as {sorted(map(str, dtypes))}, cast to {dtype}", file=sys.stderr)
        model = model.to(dtype)
    return model.eval()


def load_pipeline(folder, dtype=torch.float32):
    from diffusers import AutoencoderRAE, FlowMatchEulerDiscreteScheduler, RAEDiT2DModel, RAEDiTPipeline

    with open(os.path.join(folder, "model_index.json")) as file:
        index = json.load(file)
    if index["_class_name"] != "RAEDiTPipeline":
        raise SystemExit(f"{folder}: a {index['_class_name']}, not a RAEDiTPipeline")
    pipeline = RAEDiTPipeline(
        transformer=strict(RAEDiT2DModel, os.path.join(folder, "transformer"), dtype),
        vae=strict(AutoencoderRAE, os.path.join(folder, "vae"), dtype),
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(os.path.join(folder, "scheduler")),
        id2label=index.get("id2label"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
