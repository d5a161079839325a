// The tiny model and the batches of the committed training run (tests/parity/data/training).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "models/checkpoint.h"
#include "models/rae_dit_transformer.h"
#include "raedit/context.h"
#include "train/stage2_step.h"

namespace raedit::test {

inline std::string trace_folder() {
  return std::string(RAEDIT_TEST_DATA) + "/training";
}

inline SafetensorsFile open_trace() {
  return SafetensorsFile::open(trace_folder() + "/trace.safetensors");
}

inline std::unique_ptr<models::RaeDitTransformer> initial_model(const Context& ctx, DType dtype = DType::float32) {
  const std::string folder = trace_folder();
  Json config = models::read_config(folder + "/initial", "RAEDiT2DModel");
  auto model = std::make_unique<models::RaeDitTransformer>(models::parse_rae_dit_config(config, folder));
  model->config_json = std::move(config);
  models::load_parameters(models::named_parameters(*model), SafetensorsSet::open(folder + "/initial"), dtype,
                          ctx.kernels());
  model->dtype = dtype;
  model->complete();
  return model;
}

// Pictures [first, end) of a step's batch.
inline train::Stage2Batch batch_of(const SafetensorsFile& trace, int64_t step, int64_t first, int64_t end) {
  const auto part = [&](const char* name) {
    return trace.tensor(std::to_string(step) + "." + name).slice(0, first, end).clone();
  };
  return {part("latents"), part("noise"), part("t"), part("labels").to(DType::int64),
          Tensor::full({end - first}, 1.0f)};
}

inline train::Stage2StepOptions trace_options() {
  return {{0.9, 0.95, 1e-8, 0.01}, 1.0, 0.9};
}

inline std::vector<float> numbers_of(const std::vector<Tensor>& tensors) {
  std::vector<float> numbers;
  for (const Tensor& tensor : tensors)
    for (const float x : tensor.to_vector<float>()) numbers.push_back(x);
  return numbers;
}

}  // namespace raedit::test
