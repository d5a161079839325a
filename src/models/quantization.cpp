#include "models/quantization.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "io/crc32.h"
#include "io/safetensors.h"

namespace raedit::models {
namespace {

constexpr const char* kFormat = "raedit calibration";

const std::string& metadata_of(const SafetensorsFile& file, const std::string& key) {
  static const std::string kNone;
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? kNone : found->second;
}

SafetensorsFile open_calibration(const std::string& path) {
  SafetensorsFile file = SafetensorsFile::open(path);
  RAEDIT_CHECK(metadata_of(file, "format") == kFormat, {.code = ErrorCode::format,
                                                        .what = "this is no calibration",
                                                        .where = path,
                                                        .expected = "a file that 'raedit calibrate' wrote"});
  return file;
}

void take_maxima(const NamedParameters& parameters, const WeightSet& weights, const std::string& path,
                 const std::string& part) {
  const SafetensorsFile file = open_calibration(path);
  const std::string* last = nullptr;
  for (const auto& [name, p] : parameters)
    if (p->eight_bits) last = &name;
  if (last == nullptr) return;
  const std::string own = fingerprint_of(weights.tensor(*last)), found = metadata_of(file, part);
  const auto other_model = [&](const std::string& what, const std::string& wanted) {
    raise({.code = ErrorCode::format,
           .what = "the calibration is of another model",
           .where = path,
           .found = what,
           .expected = wanted,
           .hint = "make one of this model: raedit calibrate --model MODEL --output FILE"});
  };
  if (found != own)
    other_model(found.empty() ? "no " + part : fmt::format("{} {}", part, found),
                fmt::format("{} {}, of {}", part, own, weights.path()));
  for (const auto& [name, p] : parameters) {
    const std::string key = part + "." + name;
    if (!p->eight_bits || !file.contains(key)) continue;
    const TensorInfo& info = file.info(key);
    const Shape wanted{p->shape.numel() / std::max<int64_t>(p->shape[0], 1)};
    if (info.dtype != DType::float32 || info.shape != wanted)
      other_model(fmt::format("'{}' {} {}", key, name_of(info.dtype), info.shape.str()), "float32 " + wanted.str());
    p->input_max = file.tensor(key).clone();
  }
}

}  // namespace

void InputMaxima::see(const nn::Parameter& matrix, const Tensor& input) {
  const int64_t width = input.dim(-1);
  Tensor& most = maxima_[&matrix];
  if (!most.defined()) most = Tensor::zeros({width}, DType::float32);
  const auto values = input.cpu().to_vector<float>();
  float* to = most.data<float>();
  for (size_t row = 0; row < values.size(); row += static_cast<size_t>(width))
    for (size_t i = 0; i < static_cast<size_t>(width); ++i) to[i] = std::max(to[i], std::abs(values[row + i]));
}

Tensor InputMaxima::of(const nn::Parameter& matrix) const {
  const auto found = maxima_.find(&matrix);
  return found == maxima_.end() ? Tensor() : found->second;
}

std::string fingerprint_of(const Tensor& last_matrix) {
  constexpr int64_t kRows = 64;
  const int64_t rows = last_matrix.dim(0);
  const Tensor some = last_matrix.slice(0, 0, std::min(kRows, rows)).to(DType::bfloat16).contiguous();
  return fmt::format("{:08x}", crc32(0, some.raw(), some.nbytes()));
}

void write_calibration(const std::string& path, const std::map<std::string, CalibratedPart>& parts) {
  NamedTensors tensors;
  SafetensorsMetadata metadata{{"format", kFormat}};
  for (const auto& [part, calibrated] : parts) {
    metadata[part] = calibrated.fingerprint;
    for (const auto& [name, most] : calibrated.maxima) tensors.emplace_back(part + "." + name, most);
  }
  write_safetensors(path, tensors, metadata);
}

void plan_quantization(const NamedParameters& parameters, const WeightSet& weights, const LoadOptions& options,
                       const std::string& part) {
  const bool wanted = options.quantization == Quantization::int8;
  RAEDIT_CHECK(wanted || options.calibration.empty(), {.code = ErrorCode::invalid_argument,
                                                       .what = "a calibration is for 8-bit matrices alone",
                                                       .where = options.calibration,
                                                       .hint = "ask for int8, too, or leave the calibration out"});
  if (!wanted) return;
  for (const auto& [name, p] : parameters) p->eight_bits = p->quantizable;
  if (!options.calibration.empty()) take_maxima(parameters, weights, options.calibration, part);
}

}  // namespace raedit::models
