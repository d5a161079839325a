#include "pipeline/class_names.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"
#include "core/text.h"

namespace raedit {
namespace {

std::string trim(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

// "labels with 'cat' in them: 'cat-face'", for a word that is part of a name; at most three.
std::string labels_that_contain(const std::string& word, const std::vector<std::string>& labels) {
  constexpr size_t kMost = 3;
  std::vector<std::string> found;
  for (const std::string& label : labels)
    if (!word.empty() && label.find(word) != std::string::npos && found.size() < kMost)
      found.push_back("'" + label + "'");
  return found.empty() ? "" : fmt::format("labels with '{}' in them: {}", word, join(found));
}

}  // namespace

std::map<std::string, int64_t> names_of(const std::map<int64_t, std::string>& id2label) {
  std::map<std::string, int64_t> labels;
  for (const auto& [id, label] : id2label) {
    for (size_t begin = 0; begin <= label.size();) {
      const size_t comma = std::min(label.find(',', begin), label.size());
      const std::string name = trim(label.substr(begin, comma - begin));
      if (!name.empty()) labels[name] = id;
      begin = comma + 1;
    }
  }
  return labels;
}

std::vector<int64_t> ids_of_names(const std::map<std::string, int64_t>& known, const std::vector<std::string>& names) {
  std::vector<int64_t> ids;
  for (const std::string& name : names) {
    const auto found = known.find(name);
    if (found == known.end()) {
      std::vector<std::string> labels;
      for (const auto& [label, id] : known) labels.push_back(label);
      std::string hint = did_you_mean(name, labels);
      if (hint.empty()) hint = labels_that_contain(name, labels);
      raise({.code = ErrorCode::invalid_argument,
             .what = "no such label",
             .found = "'" + name + "'",
             .expected = labels.empty() ? "a class id, since this model has no labels" : "",
             .hint = hint});
    }
    ids.push_back(found->second);
  }
  return ids;
}

}  // namespace raedit
