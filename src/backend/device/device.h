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

// What a Context takes that is asked for 0: as many threads as the process may use processors (affinity, quota of its
// control groups), and not more than OMP_NUM_THREADS.
int available_threads();

// "cpu"
std::string to_string(DeviceType type);

}  // namespace raedit
