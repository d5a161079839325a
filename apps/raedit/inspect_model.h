// What the models themselves know about a checkpoint: roles of tensors, counts, and memory.
#pragma once

#include "inspect.h"
#include "io/safetensors.h"

namespace raedit::cli {

// Fills parameters, buffer_numbers, roles, tables and memory of a component whose kind, path and tensors are known;
// does nothing for kinds that are not ours but count. Throws Error as loading would.
void describe_model(Component& component, const WeightSet& weights);

}  // namespace raedit::cli
