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
constexpr const char* kVersion = "2";
constexpr const char* kMakeOne =
    "make one of this model: raedit calibrate --model MODEL --output FILE, with --guide DIR for a guide";
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
  const std::string& version = metadata_of(file, "version");
  RAEDIT_CHECK(version == kVersion, {.code = ErrorCode::format,
                                     .what = "this calibration is of another version of raedit",
                                     .where = path,
                                     .found = "version " + (version.empty() ? "1" : version),
                                     .expected = std::string("version ") + kVersion,
                                     .hint = kMakeOne});
  return file;
}

// PART.NAME of what may be quantized, and the sums.
std::map<std::string, std::string> sums_in(const SafetensorsFile& file, const std::string& part) {
  std::map<std::string, std::string> sums;
  for (const auto& [name, value] : file.metadata())
    if (name.starts_with(part + ".")) sums.emplace(name, value);
  return sums;
}

[[noreturn]] void refuse(const std::string& path, const std::string& found, const std::string& expected) {
  raise({.code = ErrorCode::format,
         .what = "the calibration is of another model",
         .where = path,
         .found = found,
         .expected = expected,
         .hint = kMakeOne});
}

// The sums by the names of the checkpoint, when the calibration is of such matrices.
std::map<std::string, std::string> take_calibration(const NamedParameters& parameters, const WeightSet& weights,
                                                    const std::string& path, const std::string& part) {
  const SafetensorsFile file = open_calibration(path);
  std::map<std::string, std::string> left = sums_in(file, part), sums;
  const std::string encoder = part + ".encoder.", of_weights = "one of " + weights.path();
  const auto is_of_encoder = [&](const auto& entry) { return entry.first.starts_with(encoder); };
  const bool empty = left.empty(), with_encoder = std::any_of(left.begin(), left.end(), is_of_encoder);
  for (const auto& [name, p] : parameters) {
    const std::string key = part + "." + name;
    if (!p->eight_bits || !weights.contains(name) || (key.starts_with(encoder) && !with_encoder)) continue;
    const auto sum = left.find(key);
    if (sum == left.end()) refuse(path, "no " + (empty ? part : "'" + key + "'"), of_weights);
    sums.emplace(name, sum->second);
    left.erase(sum);
    if (!file.contains(key)) continue;
    const TensorInfo& info = file.info(key);
    const Shape wanted{p->shape.numel() / std::max<int64_t>(p->shape[0], 1)};
    if (info.dtype != DType::float32 || info.shape != wanted)
      refuse(path, fmt::format("'{}' {} {}", key, name_of(info.dtype), info.shape.str()), "float32 " + wanted.str());
    p->input_max = file.tensor(key).clone();
  }
  std::erase_if(left, is_of_encoder);  // it may be missing here
  if (!sums.empty() && !left.empty()) refuse(path, "'" + left.begin()->first + "'", of_weights);
  return sums;
}

std::string text_of(uint32_t sum) {
  return fmt::format("{:08x}", sum);
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

uint32_t sum_of(const Tensor& matrix, int threads) {
  const auto sums = crc32_of_numbers(matrix, DType::bfloat16, threads);
  return crc32(0, sums.data(), sums.size() * sizeof(uint32_t));
}

void write_calibration(const std::string& path, const std::map<std::string, CalibratedPart>& parts) {
  NamedTensors tensors;
  SafetensorsMetadata metadata{{"format", kFormat}, {"version", kVersion}};
  for (const auto& [part, calibrated] : parts) {
    for (const auto& [name, sum] : calibrated.sums) metadata[part + "." + name] = text_of(sum);
    for (const auto& [name, most] : calibrated.maxima) tensors.emplace_back(part + "." + name, most);
  }
  write_safetensors(path, tensors, metadata);
}

TensorCheck plan_quantization(const NamedParameters& parameters, const WeightSet& weights, const LoadOptions& options,
                              const std::string& part) {
  const bool wanted = options.quantization == Quantization::int8;
  RAEDIT_CHECK(wanted || options.calibration.empty(), {.code = ErrorCode::invalid_argument,
                                                       .what = "a calibration is for 8-bit matrices alone",
                                                       .where = options.calibration,
                                                       .hint = "ask for int8, too, or leave the calibration out"});
  if (!wanted) return {};
  for (const auto& [name, p] : parameters) p->eight_bits = p->quantizable;
  if (options.calibration.empty()) return {};
  return [sums = take_calibration(parameters, weights, options.calibration, part), path = options.calibration, part,
          of = weights.path(), threads = threads_of(options)](const std::string& name, const Tensor& tensor) {
    const auto expected = sums.find(name);
    if (expected == sums.end()) return;
    if (const std::string found = text_of(sum_of(tensor, threads)); found != expected->second)
      refuse(path, fmt::format("'{}.{}' of CRC {}", part, name, expected->second), fmt::format("{}, of {}", found, of));
  };
}

}  // namespace raedit::models
