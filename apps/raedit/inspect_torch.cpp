#include "inspect_torch.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>

#include "core/check.h"
#include "core/text.h"
#include "io/torch_archive.h"

namespace raedit::cli {
namespace fs = std::filesystem;
namespace {

constexpr int kMostDepth = 32;
constexpr size_t kMostBytes = size_t{64} << 20;  // of names and rows
constexpr size_t kMostEntries = 40;
constexpr size_t kLongestText = 60;

// On one line, whatever bytes it has.
std::string printable(std::string_view text) {
  std::string quoted =
      Json(std::string(text.substr(0, 4 * kLongestText))).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 4 * kLongestText) quoted += "...";
  const bool plain = quoted.find('\\') == std::string::npos && quoted.size() == text.size() + 2;
  return plain ? std::string(text) : quoted;
}

std::string key_text(const PickleValue& key) {
  if (key.kind() == PickleKind::string) return std::string(key.string());
  if (key.kind() == PickleKind::integer) return fmt::to_string(key.integer());
  return "(" + key.describe() + ")";
}

bool is_list(const PickleValue& value) {
  return value.kind() == PickleKind::list || value.kind() == PickleKind::tuple;
}

class Walk {
 public:
  Walk(const TorchArchive& archive, Component& component) : archive_(archive), component_(component) {}

  void collect(const PickleValue& value, const std::string& name, int depth) {
    if (!spend(name.size() + sizeof(TensorRow)) || depth > kMostDepth) {
      cut_ = true;  // in a circle, too
    } else if (value.kind() == PickleKind::tensor) {
      const TensorInfo info = archive_.info(value);
      component_.tensors.push_back({name, std::string(name_of(info.dtype)), info.shape, info.nbytes, ""});
    } else if (value.is_dict() || is_list(value)) {
      for (size_t i = 0; i < value.size() && spent_ <= kMostBytes; ++i) {
        const std::string key = value.is_dict() ? key_text(value.key(i)) : fmt::to_string(i);
        collect(value.item(i), name.empty() ? key : name + "." + key, depth + 1);
      }
    }
  }

  // "dict of 614 tensors, 838,123,456 numbers of float32"
  std::string describe_dict(const PickleValue& dict) {
    const size_t count = dict.size();
    size_t tensors = 0;
    int64_t numbers = 0;
    std::string type;
    for (size_t i = 0; i < count && spend(1); ++i) {
      if (dict.item(i).kind() != PickleKind::tensor) continue;
      const TensorInfo info = archive_.info(dict.item(i));
      const std::string name(name_of(info.dtype));
      type = tensors == 0 || type == name ? name : "several types";
      ++tensors;
      numbers += info.shape.numel();
    }
    if (tensors == 0 || tensors != count) return fmt::format("dict of {}", count);
    return fmt::format("dict of {} tensor{}, {} numbers of {}", count, count == 1 ? "" : "s", grouped(numbers), type);
  }

  std::string describe(const PickleValue& value) {
    switch (value.kind()) {
      case PickleKind::dict: return describe_dict(value);
      case PickleKind::boolean: return value.boolean() ? "True" : "False";
      case PickleKind::integer: return fmt::format("int {}", value.integer());
      case PickleKind::real: return fmt::format("float {}", value.real());
      case PickleKind::string: {
        const std::string text = printable(value.string());
        return "str " + (text.size() > kLongestText ? text.substr(0, kLongestText) + "..." : text);
      }
      case PickleKind::tuple:
      case PickleKind::list:
      case PickleKind::set: return fmt::format("{} of {}", to_string(value.kind()), value.size());
      case PickleKind::tensor: {
        const TensorInfo info = archive_.info(value);
        return fmt::format("tensor {} {}", name_of(info.dtype), info.shape.str());
      }
      default: return value.describe();
    }
  }

  void describe_root(const PickleValue& root) {
    if (!root.is_dict() && !is_list(root)) return add("", describe(root));
    const std::string whole = describe(root);
    if (whole.find(" tensor") != std::string::npos) return add("", whole);
    for (size_t i = 0; i < std::min(root.size(), kMostEntries); ++i)
      add(root.is_dict() ? key_text(root.key(i)) : fmt::to_string(i), describe(root.item(i)));
    if (root.size() > kMostEntries) add("...", fmt::format("and {} more", root.size() - kMostEntries));
  }

  bool was_cut() const { return cut_; }

 private:
  void add(const std::string& name, const std::string& what) { component_.entries.emplace_back(printable(name), what); }
  bool spend(size_t bytes) {
    spent_ += bytes;
    return spent_ <= kMostBytes;
  }

  const TorchArchive& archive_;
  Component& component_;
  size_t spent_ = 0;
  bool cut_ = false;
};

// By the tensors that give one away.
std::string guess_kind(const std::vector<TensorRow>& tensors) {
  const auto has = [&](std::string_view ending) {
    return std::any_of(tensors.begin(), tensors.end(), [&](const TensorRow& row) {
      return row.name == ending || row.name.ends_with("." + std::string(ending));
    });
  };
  if (has("y_embedder.embedding_table.weight") && has("final_layer.linear.weight"))
    return "checkpoint of a DiTwDDTHead (stage 2)";
  if (has("decoder_embed.weight")) return "checkpoint of an RAE's decoder (stage 1)";
  if (tensors.size() <= 2 && has("var")) return "statistics of latents";
  return tensors.empty() ? "values" : "tensors";
}

}  // namespace

Component inspect_torch_file(const std::string& path) {
  const TorchArchive archive = TorchArchive::open(path);
  Component component;
  component.path = path;
  std::error_code error;
  component.files.emplace_back(fs::path(path).filename().string(), fs::file_size(path, error));
  component.metadata["format"] = archive.format();
  Walk walk(archive, component);
  walk.describe_root(archive.root());
  walk.collect(archive.root(), "", 0);
  if (walk.was_cut()) component.metadata["not listed"] = "what lies deeper: the file names its values many times over";
  component.kind = guess_kind(component.tensors);
  for (const TensorRow& row : component.tensors) component.parameters += row.shape.numel();
  return component;
}

}  // namespace raedit::cli
