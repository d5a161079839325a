// The table of devices: the one place that knows every backend.
#pragma once

#include <memory>
#include <string>

#include "backend/kernels.h"
#include "raedit/context.h"

namespace raedit {

// threads >= 1; ignored by devices that have no use for it.
std::unique_ptr<backend::Kernels> make_kernels(Device device, int threads);

// A Context on kernels of the caller's, which no table knows: for runs that compute nothing.
Context context_on(std::unique_ptr<backend::Kernels> kernels);

// What the process may use: affinity and OMP_NUM_THREADS respected.
int available_threads();

// "cpu"
std::string to_string(DeviceType type);

}  // namespace raedit
