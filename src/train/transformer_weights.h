// From weights to a transformer to train, and back: random ones of a given shape, or those of a checkpoint, as float32
// numbers that Stage2Step makes trainable.
// Source: diffusers transformer_rae_dit.py (initialize_weights) and torch's defaults of Linear (Kaiming uniform, a =
// sqrt(5): both weight and bias uniform within 1 / sqrt(inputs)).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/checkpoint.h"
#include "models/rae_dit_transformer.h"
#include "raedit/context.h"

namespace raedit::train {

// config.json of a model that does not come from a file.
Json config_json(const RAEDiT2DModelConfig& config);

// Patch embeddings Xavier-uniform with zero bias; the label table and the two time matrices normal, deviation 0.02;
// everything adaLN and the last product zero, so that it begins by saying 0; other products as torch makes them. The
// same numbers for the same seed, though not torch's.
std::unique_ptr<models::RaeDitTransformer> fresh_transformer(const RAEDiT2DModelConfig& config, uint64_t seed,
                                                             DType dtype, const backend::Kernels& kernels);

// Reads and checks as RAEDiT2DModel does, whatever types the tensors have; nothing is packed.
std::unique_ptr<models::RaeDitTransformer> load_transformer(const models::ModelSource& source, DType dtype,
                                                            const backend::Kernels& kernels);

// The same model with `added` classes behind its own: their rows of the label table begin as that of no class, or, in a
// model without one, as the mean of all. Nothing is copied but the table.
models::ModelSource with_more_classes(const models::ModelSource& source, const RAEDiT2DModelConfig& config,
                                      int64_t added);

// The model with `values` in the place of its trained parameters, named `names`. Tensors are shared.
models::ModelSource trained_source(const models::RaeDitTransformer& model, const std::vector<std::string>& names,
                                   const std::vector<Tensor>& values);

}  // namespace raedit::train
