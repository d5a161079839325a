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
// Rows that are kept to try a calibration on: of one call, and in all.
constexpr size_t kRowsOfOne = 8, kMostRows = 96;

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
    raise(
        {.code = ErrorCode::format,
         .what = "the calibration is of another model",
         .where = path,
         .found = what,
         .expected = wanted,
         .hint = "make one of this model: raedit calibrate --model MODEL --output FILE, with --guide DIR for a guide"});
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

void SeenInputs::see(const nn::Parameter& matrix, const Tensor& input) {
  const auto width = static_cast<size_t>(input.dim(-1));
  Inputs& inputs = inputs_[&matrix];
  if (!inputs.largest.defined()) inputs.largest = Tensor::zeros({input.dim(-1)}, DType::float32);
  const auto values = input.cpu().to_vector<float>();
  float* to = inputs.largest.data<float>();
  for (size_t row = 0; row < values.size(); row += width)
    for (size_t i = 0; i < width; ++i) to[i] = std::max(to[i], std::abs(values[row + i]));
  const size_t rows = values.size() / width, step = std::max<size_t>(1, rows / kRowsOfOne);
  for (size_t row = step / 2; row < rows && inputs.rows.size() < kMostRows * width; row += step)
    inputs.rows.insert(inputs.rows.end(), values.begin() + static_cast<ptrdiff_t>(row * width),
                       values.begin() + static_cast<ptrdiff_t>((row + 1) * width));
}

const SeenInputs::Inputs* SeenInputs::of(const nn::Parameter& matrix) const {
  const auto found = inputs_.find(&matrix);
  return found == inputs_.end() ? nullptr : &found->second;
}

bool is_nearer_calibrated(const SeenInputs::Inputs& inputs, const Tensor& weight, const backend::Kernels& kernels) {
  const int64_t width = inputs.largest.dim(0), rows = static_cast<int64_t>(inputs.rows.size()) / width;
  const Tensor x = Tensor::from(inputs.rows, {rows, width});
  const auto product = [&](const std::shared_ptr<const backend::PackedMatrix>& packed) {
    const Tensor out = Tensor::empty({rows, packed->n}, DType::float32);
    kernels.linear(x, *packed, Tensor(), backend::Activation::none, out);
    return out.to_vector<float>();
  };
  const auto exact = product(kernels.pack(weight, DType::float32));
  const auto error = [&](const Tensor& largest) {
    const auto found = product(kernels.pack_int8(weight, largest));
    double sum = 0;
    for (size_t i = 0; i < exact.size(); ++i) sum += std::pow(double{found[i]} - double{exact[i]}, 2);
    return sum;
  };
  return error(inputs.largest) < error(Tensor());
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
