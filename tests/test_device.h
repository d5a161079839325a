// The device that tests run on: what RAEDIT_TEST_DEVICE names (cpu, cuda, cuda:1), the processor where it is not set.
// The same tests run on every device, with the same bounds. What cannot be the same there is skipped and says why.
#pragma once

#include <cstdlib>

#include "backend/kernels.h"
#include "raedit/context.h"
#include "raedit/pretrained.h"
#include "raedit/tensor.h"

namespace raedit::test {

inline Device test_device() {
  const char* name = std::getenv("RAEDIT_TEST_DEVICE");
  return Device::from_name(name != nullptr && *name != '\0' ? name : "cpu");
}

inline bool on_cpu() {
  return test_device().type == DeviceType::cpu;
}

// threads: 0 for as many as there are; only the processor's Context has a use for them.
inline Context test_context(int threads = 0) {
  return Context({.device = test_device(), .threads = threads});
}

inline LoadOptions load_options(DType dtype = DType::float32) {
  return {.dtype = dtype, .device = test_device()};
}

// All of the storage that `tensor` is a view of.
inline Tensor whole_storage(const Tensor& tensor) {
  const auto elements = static_cast<int64_t>(tensor.storage()->bytes() / size_of(tensor.dtype()));
  return Tensor(tensor.storage(), 0, {elements}, tensor.dtype());
}

// The same view of a copy of the whole storage in the context's memory; `tensor` itself where that is the host's. Ops
// take host tensors too, but a gradient is kept of the tensor that was watched, and kernels read device memory alone.
inline Tensor on_device(const Context& ctx, const Tensor& tensor) {
  const auto memory = ctx.kernels().memory();
  if (memory == nullptr || !tensor.defined() || !tensor.on_host()) return tensor;
  return tensor.same_view_of(copy_to(whole_storage(tensor), memory).storage(), tensor.dtype());
}

}  // namespace raedit::test

// For tests of what the processor alone does or promises. In a TEST or SetUp().
#define RAEDIT_CPU_ONLY(reason)                          \
  do {                                                   \
    if (!raedit::test::on_cpu()) GTEST_SKIP() << reason; \
  } while (false)
