// Weights that are too large to commit and need not be: numbers that follow from the tensor's name
// (tools/convert_reference.py says how), so that the reference and this test see the same ones.
#pragma once

#include <string>

namespace raedit::testing {

// Copies the folder of an encoder to `target`; where it has weights.recipe.json instead of weights, makes them:
// "single" model.safetensors, or "sharded" into several with an index.
void make_encoder(const std::string& source, const std::string& layout, const std::string& target);

}  // namespace raedit::testing
