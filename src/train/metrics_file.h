// metrics.jsonl: one JSON object a line for every step that was reported, for scripts and people.
#pragma once

#include <cstdint>
#include <string>

#include "core/json.h"
#include "train/append_file.h"

namespace raedit::train {

class MetricsFile {
 public:
  // For a new run: Error(io) when the file exists already.
  static MetricsFile create(const std::string& path);
  // For one that goes on behind `step`: lines of later steps are dropped, and half a last line that a killed run left.
  // The file is then replaced as a whole or not at all. Error(format) for other lines that are not ours.
  static MetricsFile resume(const std::string& path, int64_t step);

  const std::string& path() const { return file_.path(); }

  // An object with an integer "step"; what is not finite becomes null. The whole line or, with Error(io), nothing.
  void append(const Json& metrics);

 private:
  explicit MetricsFile(AppendFile file) : file_(std::move(file)) {}

  AppendFile file_;
};

}  // namespace raedit::train
