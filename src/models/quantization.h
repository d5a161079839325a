// Which matrices of a model become 8-bit integers, and the calibration that goes with them: the largest magnitudes of
// each matrix's inputs, collected over a few runs, in a safetensors file.
//
// The file: float32 tensors PART.NAME [K] (PART is transformer or vae, NAME the matrix's in the checkpoint), and
// metadata with `format` and one fingerprint for each part.
#pragma once

#include <map>
#include <string>

#include "models/checkpoint.h"

namespace raedit::models {

inline constexpr const char* kTransformerPart = "transformer";
inline constexpr const char* kAutoencoderPart = "vae";

// Marks the matrices that `options` want in 8 bits, with what the calibration knows of them under "PART.name". Before
// load_parameters(). Throws Error(format) for a calibration of another model.
void plan_quantization(const NamedParameters& parameters, const WeightSet& weights, const LoadOptions& options,
                       const std::string& part);

// Collects what matrices see. Give see() to Context::set_input_observer.
class InputMaxima {
 public:
  void see(const nn::Parameter& matrix, const Tensor& input);
  // Undefined for one that saw nothing.
  Tensor of(const nn::Parameter& matrix) const;

 private:
  std::map<const nn::Parameter*, Tensor> maxima_;
};

// A part of a calibration file.
struct CalibratedPart {
  std::map<std::string, Tensor> maxima;
  std::string fingerprint;
};

template <class M>
CalibratedPart calibrated_part(const M& module, const InputMaxima& maxima) {
  CalibratedPart part;
  nn::for_each_parameter(module, [&](const std::string& name, const nn::Parameter& p) {
    if (!p.quantizable) return;
    if (const Tensor most = maxima.of(p); most.defined()) part.maxima[name] = most;
  });
  return part;
}

// Of the last quantizable matrix, as bfloat16: tells models of one shape apart, and is the same for a copy that was
// saved in bfloat16.
std::string fingerprint_of(const Tensor& last_matrix);

void write_calibration(const std::string& path, const std::map<std::string, CalibratedPart>& parts);

}  // namespace raedit::models
