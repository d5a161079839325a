#include "backend/device/device.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>

#include "backend/cpu/cpu_kernels.h"
#include "backend/device/cuda_plugin.h"
#include "backend/device/processors.h"
#include "core/check.h"
#include "core/text.h"

namespace raedit {

Device Device::from_name(std::string_view name) {
  if (name == "cpu") return Device{DeviceType::cpu};
  if (name == "cuda") return Device{DeviceType::cuda};
  constexpr std::string_view kPrefix = "cuda:";
  int index = -1;
  if (name.starts_with(kPrefix)) index = number_of<int>(name.substr(kPrefix.size())).value_or(-1);
  RAEDIT_CHECK(index >= 0, {.code = ErrorCode::invalid_argument,
                            .what = "no such device",
                            .where = "device",
                            .found = std::string(name),
                            .expected = "cpu, cuda or cuda:N"});
  return Device{DeviceType::cuda, index};
}

std::unique_ptr<backend::Kernels> make_kernels(Device device, int threads) {
  switch (device.type) {
    case DeviceType::cpu: return backend::cpu::make_cpu_kernels(threads);
    case DeviceType::cuda: return load_cuda_kernels(device.index);
  }
  raise({.code = ErrorCode::internal, .what = "device has no kernels"});
}

int available_threads() {
  return std::max(1, std::min(omp_get_max_threads(), usable_processors()));
}

std::string to_string(DeviceType type) {
  switch (type) {
    case DeviceType::cpu: return "cpu";
    case DeviceType::cuda: return "cuda";
  }
  return "unknown";
}

}  // namespace raedit
