#include "backend/cuda/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "core/check.h"
#include "core/text.h"

namespace raedit::backend::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) [[likely]]
    return;
  (void)cudaGetLastError();  // the error is told once
  const bool memory = status == cudaErrorMemoryAllocation;
  raise(
      {.code = memory ? ErrorCode::out_of_memory : ErrorCode::internal,
       .what = fmt::format("CUDA: {}", cudaGetErrorString(status)),
       .where = what,
       .found = cudaGetErrorName(status),
       .hint = memory ? "a smaller batch or bfloat16 needs less" : "RAEDIT_CUDA_SYNC=1 names the kernel that failed"});
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  raise({.code = status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorCode::out_of_memory : ErrorCode::internal,
         .what = "cuBLASLt failed",
         .where = what,
         .found = cublasLtGetStatusName(status)});
}

// An event behind every launch: what lies between two is the time of the second, a wait for the host included.
struct Runtime::Profile {
  ~Profile() {
    for (const Mark& mark : marks) (void)cudaEventDestroy(mark.event);
  }

  void mark(const char* kernel, cudaStream_t stream) {
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event), "cudaEventCreate");
    marks.push_back({kernel, event});
    check(cudaEventRecord(event, stream), "cudaEventRecord");
  }

  std::string table() const {
    struct Row {
      double milliseconds = 0;
      int64_t launches = 0;
    };
    std::map<std::string, Row> rows;
    double total = 0;
    for (size_t i = 1; i < marks.size(); ++i) {
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, marks[i - 1].event, marks[i].event), "cudaEventElapsedTime");
      Row& row = rows[marks[i].kernel];
      row.milliseconds += milliseconds;
      ++row.launches;
      total += milliseconds;
    }
    std::vector<std::pair<std::string, Row>> sorted(rows.begin(), rows.end());
    std::sort(sorted.begin(), sorted.end(),
              [](const auto& a, const auto& b) { return a.second.milliseconds > b.second.milliseconds; });
    std::string text = fmt::format("{:>10.3f} ms in all\n", total);
    for (const auto& [kernel, row] : sorted)
      text += fmt::format("{:>10.3f} ms {:>5.1f}% {:>6} x {:>9.1f} us  {}\n", row.milliseconds,
                          100 * row.milliseconds / total, row.launches,
                          1e3 * row.milliseconds / static_cast<double>(row.launches), kernel);
    return text;
  }

  struct Mark {
    const char* kernel;
    cudaEvent_t event;
  };
  std::vector<Mark> marks;
};

Runtime::Runtime(int device) : device_(device) {
  check(cudaSetDevice(device), "cudaSetDevice");
  check(cudaGetDeviceProperties(&properties_, device), "cudaGetDeviceProperties");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cublasLtCreate(&cublas_), "cublasLtCreate");
  const char* synchronous = std::getenv("RAEDIT_CUDA_SYNC");
  synchronous_ = synchronous != nullptr && std::strcmp(synchronous, "0") != 0;
}

Runtime::~Runtime() {
  release_workspace();  // errors have nowhere to go here
  if (cublas_ != nullptr) (void)cublasLtDestroy(cublas_);
  (void)cudaStreamDestroy(stream_);
}

std::byte* Runtime::workspace(size_t bytes) const {
  constexpr size_t kLeast = size_t{64} << 20;
  if (bytes <= workspace_bytes_) return workspace_;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream_, &capture), "cudaStreamIsCapturing");
  RAEDIT_CHECK(capture == cudaStreamCaptureStatusNone, {.code = ErrorCode::internal,
                                                        .what = "scratch memory cannot grow while a graph is captured",
                                                        .found = human_bytes(bytes),
                                                        .expected = "at most " + human_bytes(workspace_bytes_)});
  const size_t wanted = std::max(bytes + bytes / 4, kLeast);
  void* memory = nullptr;
  check(cudaMalloc(&memory, wanted), "cudaMalloc of the workspace");
  if (workspace_ != nullptr) outgrown_.push_back(workspace_);
  workspace_ = static_cast<std::byte*>(memory);
  workspace_bytes_ = wanted;
  return workspace_;
}

void Runtime::release_workspace() {
  (void)cudaStreamSynchronize(stream_);
  (void)cudaFree(workspace_);
  for (std::byte* block : outgrown_) (void)cudaFree(block);
  outgrown_.clear();
  workspace_ = nullptr;
  workspace_bytes_ = 0;
}

void Runtime::synchronize() const {
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

void Runtime::launched(const char* kernel) const {
  check(cudaGetLastError(), kernel);
  if (!synchronous_ && profile_ == nullptr) return;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream_, &capture), "cudaStreamIsCapturing");
  if (capture != cudaStreamCaptureStatusNone) return;
  if (profile_ != nullptr) profile_->mark(kernel, stream_);
  if (synchronous_) check(cudaStreamSynchronize(stream_), kernel);
}

void Runtime::start_profile() const {
  synchronize();
  profile_ = std::make_unique<Profile>();
  profile_->mark("start", stream_);
}

std::string Runtime::profile() const {
  if (profile_ == nullptr) return "";
  synchronize();
  const auto done = std::move(profile_);
  return done->table();
}

}  // namespace raedit::backend::cuda
