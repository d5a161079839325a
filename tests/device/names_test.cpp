// Names of devices, and what is said where CUDA cannot be used. None of these libraries may be taken, so one process
// can try them all.
#include <cstdlib>
#include <fstream>

#include "backend/device/device.h"
#include "expect_error.h"
#include "raedit/context.h"

namespace raedit {
namespace {

TEST(DeviceNames, AreCpuAndCudaWithANumber) {
  const auto expect = [](const char* name, DeviceType type, int index) {
    const Device device = Device::from_name(name);
    EXPECT_EQ(device.type, type) << name;
    EXPECT_EQ(device.index, index) << name;
  };
  expect("cpu", DeviceType::cpu, 0);
  expect("cuda", DeviceType::cuda, 0);
  expect("cuda:0", DeviceType::cuda, 0);
  expect("cuda:1", DeviceType::cuda, 1);
  expect("cuda:12", DeviceType::cuda, 12);
  for (const char* name : {"", "CPU", "cpu:0", "Cuda", "cuda ", " cuda", "cuda:", "cuda:x", "cuda:1x", "cuda: 1",
                           "cuda:-1", "cuda:+1", "cuda:1.0", "cuda:99999999999", "cuda0", "gpu", "mps"}) {
    EXPECT_RAEDIT_ERROR(Device::from_name(name), ErrorCode::invalid_argument, "no such device", name,
                        "cpu, cuda or cuda:N");
  }
  EXPECT_EQ(to_string(DeviceType::cpu), "cpu");
  EXPECT_EQ(to_string(DeviceType::cuda), "cuda");
}

class NoCuda : public ::testing::Test {
 protected:
  static void use(const std::string& library) { ::setenv("RAEDIT_CUDA_LIBRARY", library.c_str(), 1); }
  void TearDown() override { ::unsetenv("RAEDIT_CUDA_LIBRARY"); }

  static Context on_cuda() { return Context({.device = Device::from_name("cuda")}); }
};

TEST_F(NoCuda, ALibraryThatIsNotThere) {
  use("/nowhere/libraedit_cuda.so");
  EXPECT_RAEDIT_ERROR(on_cuda(), ErrorCode::unsupported, "device: CUDA cannot be used", "/nowhere/libraedit_cuda.so",
                      "No such file", "built with CUDA where nvcc is found");
}

TEST_F(NoCuda, AFileThatIsNoLibrary) {
  const std::string file = ::testing::TempDir() + "not_a_library.so";
  std::ofstream(file) << std::string(4096, 'x');
  use(file);
  EXPECT_RAEDIT_ERROR(on_cuda(), ErrorCode::unsupported, "CUDA cannot be used", file, "invalid ELF header");
}

TEST_F(NoCuda, ALibraryOfSomethingElse) {
  use(RAEDIT_NO_PLUGIN);
  EXPECT_RAEDIT_ERROR(on_cuda(), ErrorCode::unsupported, "CUDA cannot be used",
                      RAEDIT_NO_PLUGIN " is not the CUDA device of raedit", "reinstall raedit");
}

TEST_F(NoCuda, ALibraryOfAnotherBuild) {
  use(RAEDIT_OTHER_BUILD);
  EXPECT_RAEDIT_ERROR(on_cuda(), ErrorCode::unsupported, "CUDA cannot be used", RAEDIT_OTHER_BUILD,
                      "belongs to another build", "0.0.0-another there", "reinstall raedit");
}

TEST_F(NoCuda, TheProcessorIsThereAllTheSame) {
  use("/nowhere/libraedit_cuda.so");
  Context ctx({.device = Device::from_name("cpu")});
  EXPECT_FALSE(ctx.has_graphs());
  EXPECT_EQ(ctx.description().substr(0, 4), "cpu,");
}

}  // namespace
}  // namespace raedit
