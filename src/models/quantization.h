// Which matrices of a model become 8-bit integers, and the calibration that goes with them: the largest magnitudes of
// each matrix's inputs, collected over a few runs, in a safetensors file.
//
// The file: float32 tensors PART.NAME [K] (PART is transformer or vae, NAME the matrix's in the checkpoint) for the
// matrices that it helps, and metadata: `format`, `version`, and under PART.NAME for every matrix that may be
// quantized, helped or not, the CRC-32 of the CRC-32s of each 2^18 of its numbers as bfloat16. These tell models of one
// shape apart, and a copy that was saved in bfloat16 is the same model.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "models/checkpoint.h"

namespace raedit::models {

inline constexpr const char* kTransformerPart = "transformer";
inline constexpr const char* kAutoencoderPart = "vae";

// Marks the matrices that `options` want in 8 bits, with what the calibration knows of them under "PART.name". Before
// load_parameters(), which is to be given the check that comes back: it refuses matrices that the calibration was not
// made of, and is empty without one. A calibration that was made without the encoder leaves that alone. Throws
// Error(format) for a calibration of a model of other matrices.
TensorCheck plan_quantization(const NamedParameters& parameters, const WeightSet& weights, const LoadOptions& options,
                              const std::string& part);

// Collects what matrices see. Give see() to Context::set_input_observer.
class SeenInputs {
 public:
  void see(const nn::Parameter& matrix, const Tensor& input);

  struct Inputs {
    Tensor largest;           // [K]
    std::vector<float> rows;  // some of them, [.,K]
  };
  // Null for one that saw nothing.
  const Inputs* of(const nn::Parameter& matrix) const;

 private:
  std::map<const nn::Parameter*, Inputs> inputs_;
};

// A part of a calibration file.
struct CalibratedPart {
  std::map<std::string, Tensor> maxima;  // of those matrices whose products come nearer with them
  int64_t seen = 0;                      // matrices
  std::map<std::string, uint32_t> sums;  // of all that may be quantized
};

// Of a matrix, in the file.
uint32_t sum_of(const Tensor& matrix, int threads);

// Whether the product of those rows in 8 bits is nearer to float32's with the maxima than without.
bool is_nearer_calibrated(const SeenInputs::Inputs& inputs, const Tensor& weight, const backend::Kernels& kernels);

// Without the sums.
template <class M>
CalibratedPart calibrated_part(const M& module, const SeenInputs& seen, const backend::Kernels& kernels) {
  CalibratedPart part;
  nn::for_each_parameter(module, [&](const std::string& name, const nn::Parameter& p) {
    const SeenInputs::Inputs* inputs = p.quantizable ? seen.of(p) : nullptr;
    if (inputs == nullptr) return;
    ++part.seen;
    if (is_nearer_calibrated(*inputs, p.value, kernels)) part.maxima[name] = inputs->largest;
  });
  return part;
}

template <class M>
std::map<std::string, uint32_t> sums_of_matrices(const M& module, int threads) {
  std::map<std::string, uint32_t> sums;
  nn::for_each_parameter(module, [&](const std::string& name, const nn::Parameter& p) {
    if (p.quantizable && p.source.defined()) sums[name] = sum_of(p.source, threads);
  });
  return sums;
}

void write_calibration(const std::string& path, const std::map<std::string, CalibratedPart>& parts);

}  // namespace raedit::models
