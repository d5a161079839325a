"""Write src/convert/imagenet_labels.cpp: the names of the 1000 classes of ImageNet-1k (ILSVRC 2012), in order of their ids.

    python tools/make_imagenet_labels.py > src/convert/imagenet_labels.cpp

Source: imagenet_synsets.txt (the classes in order) and imagenet_synset_to_lemma.txt (their WordNet lemmas) of the
installed timm (Apache-2.0). Where torchvision is installed too, its own list must agree: every first lemma or one of the others.
"""

import importlib.metadata
import importlib.util
import os
import re
import sys

WIDTH = 120
HEAD = """// Written by tools/make_imagenet_labels.py from timm {version}, timm/data/_info/imagenet_synsets.txt and
// imagenet_synset_to_lemma.txt: Copyright Ross Wightman, Apache License 2.0; the names are WordNet's lemmas.
// WordNet calls two things a crane, the bird (134) and the machine (517): both names stand as they are there.
#include "convert/imagenet_labels.h"

#include <array>
#include <string_view>

namespace raedit::convert {{
namespace {{

// clang-format off
constexpr std::array<std::string_view, {count}> kLabels{{
"""
TAIL = """};
// clang-format on

}  // namespace

std::map<int64_t, std::string> imagenet_1k_labels() {
  std::map<int64_t, std::string> labels;
  int64_t id = 0;
  for (const std::string_view label : kLabels) labels.emplace_hint(labels.end(), id++, label);
  return labels;
}

}  // namespace raedit::convert
"""


def folder_of(package):  # without importing it
    return os.path.dirname(importlib.util.find_spec(package).origin)


def read_labels():
    info = os.path.join(folder_of("timm"), "data", "_info")
    with open(os.path.join(info, "imagenet_synsets.txt"), encoding="utf-8") as file:
        synsets = file.read().split()
    with open(os.path.join(info, "imagenet_synset_to_lemma.txt"), encoding="utf-8") as file:
        lemmas = dict(line.rstrip("\n").split("\t") for line in file)
    return [lemmas[synset] for synset in synsets]


def check(labels):
    assert len(labels) == 1000 and labels[0].startswith("tench") and labels[999].startswith("toilet tissue")
    assert all(label.isascii() and label.isprintable() and not set(label) & {'"', "\\"} for label in labels)
    same = {label: [k for k, other in enumerate(labels) if other == label] for label in labels}
    twice = {label: ids for label, ids in same.items() if len(ids) > 1}
    assert twice == {"crane": [134, 517]}, twice
    if importlib.util.find_spec("torchvision") is None:
        return
    with open(os.path.join(folder_of("torchvision"), "models", "_meta.py"), encoding="utf-8") as file:
        text = file.read()
    others = re.findall(r'^    "(.*)",$', text[text.index("_IMAGENET_CATEGORIES") :], re.MULTILINE)[:1000]
    # torchvision tells some names apart in its own words ("crane bird"): a word in common is enough.
    words = lambda name: set(re.findall(r"\w+", name.lower()))
    different = [(k, a, b) for k, (a, b) in enumerate(zip(labels, others)) if not words(a) & words(b)]
    assert len(others) == 1000 and not different, different


def table(labels):
    lines, line = [], " "
    for label in labels:
        item = f' "{label}",'
        if len(line) + len(item) > WIDTH and line.strip():
            lines.append(line)
            line = " "
        if len(line) + len(item) > WIDTH:  # one label too long for a line: two literals, which the compiler joins
            cut = label.rindex(", ", 0, WIDTH - 6) + 2
            lines.append(f'  "{label[:cut]}"')
            item = f'   "{label[cut:]}",'
        line += item
    return "\n".join(lines + [line]) + "\n"


def main():
    labels = read_labels()
    check(labels)
    sys.stdout.write(HEAD.format(version=importlib.metadata.version("timm"), count=len(labels)) + table(labels) + TAIL)


if __name__ == "__main__":
    main()
