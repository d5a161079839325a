"""Write what OmegaConf reads in a YAML file as JSON: what tests/io/yaml_test.cpp compares with.

    python tools/dump_omegaconf.py tests/io/data/nasty.yaml > tests/io/data/nasty.json

Interpolations are resolved. The result is {"omegaconf": its version, "pyyaml": its version, "values": ...}; NaN and the
infinities, which JSON lacks, become strings: "float nan". Upstream uses omegaconf 2.3.0 (its requirements.txt).
"""

import argparse
import json
import math

import omegaconf
import yaml


def without_specials(value):
    if isinstance(value, dict):
        return {key: without_specials(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_specials(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return f"float {value}"
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    args = parser.parse_args()
    values = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.load(args.file), resolve=True)
    print(json.dumps({"omegaconf": omegaconf.__version__, "pyyaml": yaml.__version__,
                      "values": without_specials(values)}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
