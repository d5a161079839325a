"""Compare raedit with the reference pipeline: the same picture from the same seed, and checkpoints that load both ways.

    python tools/compare_pipeline.py MODEL --labels 31,81 --seed 0 --steps 25 --guidance 3
                                     [--out run.safetensors] [--grid run.png]
        Runs RAEDiTPipeline (float32 on the CPU), picture k from its own CPU generator seeded seed + k, and writes `latents_in`,
        `latents`, `images` (B,3,H,W in [0,1]), `pictures` (B,H,W,3, 8 bits as the pipeline rounds them), `class_labels`.
    ... --against FILE.safetensors | PICTURE.png ...
        Compares with what raedit wrote: tensors of the same name, or 8-bit pictures in order. Exit 1 above --tolerance
        (pictures: above one step of 255).
    python tools/compare_pipeline.py MODEL --same-as OTHER
        Loads both folders with the reference code, strictly, and wants equal configs, labels and tensors, bit for bit.

PYTHONPATH: see reference.py.
"""

import argparse
import sys

import numpy as np
import reference
import torch
from safetensors.torch import load_file, save_file


def same(folder, other):
    """Differences between two pipeline folders as the reference code sees them."""
    one, two = reference.load_pipeline(folder), reference.load_pipeline(other)
    found = []
    if dict(one.config)["id2label"] != dict(two.config)["id2label"]:
        found.append("model_index.json: id2label differs")
    for part in ("transformer", "vae", "scheduler"):
        a, b = getattr(one, part), getattr(two, part)
        ignored = ("_name_or_path", "_diffusers_version")
        configs = [{k: v for k, v in x.config.items() if k not in ignored} for x in (a, b)]
        found += [f"{part}.config.{key}" for key in sorted(set(configs[0]) | set(configs[1]))
                  if configs[0].get(key) != configs[1].get(key)]
        if part == "scheduler":
            continue
        left, right = a.state_dict(), b.state_dict()
        found += [f"{part}: {key} is in one only" for key in sorted(set(left) ^ set(right))]
        shared = sorted(set(left) & set(right))
        found += [f"{part}: {key} differs" for key in shared if not torch.equal(left[key], right[key])]
        print(f"{part}: {len(shared)} tensors, loaded strictly from both")
    return found


def run(args):
    pipeline = reference.load_pipeline(args.model)
    labels = [int(x) if x.strip().isdigit() else pipeline.get_label_ids(x.strip())[0] for x in args.labels.split(",")]
    config = pipeline.transformer.config
    generators = [torch.Generator("cpu").manual_seed(args.seed + k) for k in range(len(labels))]
    latents_in = pipeline.prepare_latents(len(labels), config.in_channels, config.sample_size, torch.float32,
                                          torch.device("cpu"), generators, None)
    latents = pipeline(labels, guidance_scale=args.guidance, guidance_start=args.guidance_start,
                       guidance_end=args.guidance_end, latents=latents_in, num_inference_steps=args.steps,
                       output_type="latent").images
    with torch.no_grad():
        images = pipeline.vae.decode(latents).sample.clamp(0, 1)
    pictures = torch.from_numpy((images.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)).contiguous()
    return {"latents_in": latents_in, "latents": latents, "images": images.contiguous(), "pictures": pictures,
            "class_labels": torch.tensor(labels)}


def write_grid(path, pictures, zoom=2):
    from PIL import Image

    count, height, width, _ = pictures.shape
    columns = min(count, 12)
    sheet = Image.new("RGB", (columns * width, -(-count // columns) * height), "white")
    for k, picture in enumerate(pictures.numpy()):
        sheet.paste(Image.fromarray(picture), (k % columns * width, k // columns * height))
    sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.NEAREST).save(path)


def against(result, paths, tolerance):
    """Print the differences; True when all are within tolerance."""
    if paths[0].endswith(".safetensors"):
        theirs = load_file(paths[0])
        names = [name for name in ("latents_in", "latents", "images") if name in theirs]
        pairs = [(name, result[name], theirs[name].float(), tolerance) for name in names]
    else:
        from PIL import Image

        if len(paths) != len(result["pictures"]):
            raise SystemExit(f"{len(paths)} pictures given, {len(result['pictures'])} labels")
        read = [np.array(Image.open(path).convert("RGB")) for path in paths]
        pairs = [(path, result["pictures"][k].float(), torch.from_numpy(read[k]).float(), 1) for k, path in enumerate(paths)]
    good = bool(pairs)
    for name, ours, other, limit in pairs:
        if ours.shape != other.shape:
            print(f"{name}: shape {tuple(other.shape)}, expected {tuple(ours.shape)}")
            good = False
            continue
        difference = (ours - other).abs()
        print(f"{name}: max {difference.max():.3g} mean {difference.mean():.3g}")
        good &= bool(difference.max() <= limit)  # false for NaN too
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--labels", default="0", help="class ids or names, with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--guidance-start", type=float, default=0.0)
    parser.add_argument("--guidance-end", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out")
    parser.add_argument("--grid")
    parser.add_argument("--against", nargs="+")
    parser.add_argument("--tolerance", type=float, default=2e-5)
    parser.add_argument("--same-as")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    if args.same_as:
        found = same(args.model, args.same_as)
        print("\n".join(found) or "equal")
        return 1 if found else 0
    result = run(args)
    if args.out:
        metadata = {key: str(value) for key, value in {**reference.versions(), **vars(args)}.items()}
        save_file(result, args.out, {k: v for k, v in metadata.items() if k not in ("model", "out", "grid", "against")})
    if args.grid:
        write_grid(args.grid, result["pictures"])
    return 0 if not args.against or against(result, args.against, args.tolerance) else 1


if __name__ == "__main__":
    sys.exit(main())
