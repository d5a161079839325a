#include "backend/device/device.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>

#include "backend/cpu/cpu_kernels.h"
#include "core/check.h"

namespace raedit {

Device Device::from_name(std::string_view name) {
  RAEDIT_CHECK(name == "cpu", {.code = name == "cuda" ? ErrorCode::unsupported : ErrorCode::invalid_argument,
                               .what = "no such device in this build",
                               .where = "device",
                               .found = std::string(name),
                               .expected = "cpu"});
  return Device{DeviceType::cpu};
}

std::unique_ptr<backend::Kernels> make_kernels(Device device, int threads) {
  switch (device.type) {
    case DeviceType::cpu: return backend::cpu::make_cpu_kernels(threads);
  }
  raise({.code = ErrorCode::internal, .what = "device has no kernels"});
}

int available_threads() {
  return std::max(1, std::min(omp_get_max_threads(), omp_get_num_procs()));
}

std::string to_string(DeviceType type) {
  switch (type) {
    case DeviceType::cpu: return "cpu";
  }
  return "unknown";
}

}  // namespace raedit
