"""Make the bundled model from the trained float32 pipeline: weights to bfloat16, tables and statistics stay float32.

    python tools/make_bundled_model.py TRAINED [--out models/emoji64]

The tensor names, shapes and configs stay as the reference code wrote them; only `_name_or_path` (a path of the training
machine) goes. README.md in the output folder is not touched.
"""

import argparse
import json
import os
import shutil

import safetensors_raw as st


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained")
    parser.add_argument("--out", default=os.path.join(os.path.dirname(__file__), "..", "models", "emoji64"))
    args = parser.parse_args()

    for part in ("transformer", "vae"):
        os.makedirs(os.path.join(args.out, part), exist_ok=True)
        reader = st.Reader(os.path.join(args.trained, part, "diffusion_pytorch_model.safetensors"))
        not_float32 = [name for name, (dtype, _) in reader.tensors.items() if dtype != "F32"]
        if not_float32:
            raise SystemExit(f"{part}: not float32: {not_float32}")
        tensors = {name: (st.stored_dtype(name, "BF16"), shape) for name, (_, shape) in reader.tensors.items()}
        target = os.path.join(args.out, part, "diffusion_pytorch_model.safetensors")
        st.write(target, tensors, lambda name: st.encode(reader.array(name), tensors[name][0]), {"format": "pt"})
        with open(os.path.join(args.trained, part, "config.json")) as file:
            config = json.load(file)
        config.pop("_name_or_path", None)
        with open(os.path.join(args.out, part, "config.json"), "w") as file:
            json.dump(config, file, indent=2 if part == "transformer" else None, sort_keys=True)
            file.write("\n")
        print(f"{target}: {os.path.getsize(target) / 1e6:.1f} MB")
    os.makedirs(os.path.join(args.out, "scheduler"), exist_ok=True)
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        shutil.copyfile(os.path.join(args.trained, name), os.path.join(args.out, name))


if __name__ == "__main__":
    main()
