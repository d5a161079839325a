// --latents FILE.safetensors[:NAME]
#pragma once

#include <string>

#include "raedit/tensor.h"

namespace raedit::cli {

// The tensor NAME of the file; without a name, the file's only tensor or else `latents`. float32 [N,C,S,S]. Throws
// Error(invalid_argument) for another rank or type.
Tensor load_latents(const std::string& argument);

}  // namespace raedit::cli
