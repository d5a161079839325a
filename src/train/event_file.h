// Scalars and pictures for TensorBoard: an event file as TensorFlow writes it.
// Source: the TFRecord format (tensorflow.org/tutorials/load_data/tfrecord) and the messages Event, Summary and
// SessionLog of TensorFlow's event.proto and summary.proto; CRC-32C of RFC 3720.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "train/append_file.h"

namespace raedit::train {

class EventFile {
 public:
  using Scalars = std::vector<std::pair<std::string, float>>;  // tag and value
  using Clock = std::function<double()>;                       // seconds since 1970

  // Makes the folder if need be and in it a new file, also where a run that is resumed has left one. With
  // `resume_step`, TensorBoard forgets what earlier files say of later steps. Throws Error(io).
  explicit EventFile(const std::string& folder, std::optional<int64_t> resume_step = std::nullopt, Clock clock = {});

  const std::string& path() const { return file_.path(); }

  // Every call is one record, out of our hands when it returns. Throws Error(io), Error(invalid_argument) for a tag
  // that is empty or not UTF-8.
  void add_scalar(int64_t step, const std::string& tag, float value);
  void add_scalars(int64_t step, const Scalars& scalars);
  // The bytes of an RGB PNG file. Throws Error(invalid_argument) when they do not begin like one.
  void add_png(int64_t step, const std::string& tag, std::string_view png);

 private:
  void write_event(int64_t step, std::string_view what);

  Clock clock_;
  AppendFile file_;
};

}  // namespace raedit::train
