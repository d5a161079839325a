// The processor's threads stay: what has fewer pieces than there are threads must not end some of them, which the next
// operation would have to start anew.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <string>

#include "op_table.h"
#include "ops/linear.h"
#include "test_device.h"

namespace raedit::test {
namespace {

// Ids of the threads of this process. One that is started later has an id of its own.
std::set<std::string> thread_ids() {
  std::set<std::string> ids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task"))
    ids.insert(entry.path().filename().string());
  return ids;
}

TEST(OneTeam, KeepsItsThreads) {
  RAEDIT_CPU_ONLY("the processor's threads");
  constexpr int kThreads = 4;
  Context ctx({.threads = kThreads});
  std::set<std::string> seen = thread_ids();
  const size_t others = seen.size() - 1;  // and this one, which is of the team
  const Tensor row = random_normal({1, 64}, DType::float32, 1), rows = random_normal({256, 64}, DType::float32, 2);
  const Tensor w_small = random_normal({192, 64}, DType::float32, 3);  // three groups of columns
  const Tensor w_large = random_normal({1024, 64}, DType::float32, 4);
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::int8}) {
    const auto packed = [&](const Tensor& w) {
      const backend::Kernels& kernels = ctx.kernels();
      return ops::Matrix{w, dtype == DType::int8 ? kernels.pack_int8(w, {}) : kernels.pack(w, dtype)};
    };
    const auto converted = [&](const Tensor& x) { return dtype == DType::bfloat16 ? x.to(dtype) : x; };
    const ops::Matrix few = packed(w_small), many = packed(w_large);
    for (int i = 0; i < 10; ++i)
      for (const auto* weight : {&many, &few}) {
        ops::linear(ctx, converted(weight == &few ? row : rows), *weight);
        seen.merge(thread_ids());
      }
  }
  EXPECT_GE(seen.size(), others + 2);  // there was a team
  EXPECT_LE(seen.size(), others + kThreads);
}

}  // namespace
}  // namespace raedit::test
