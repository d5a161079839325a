// The CUDA device's entry points that belong to no kernel family: where tensors live, graphs, the description.
#include "backend/cuda/cuda_kernels.h"

#include <fmt/format.h>

#include "backend/cuda/memory.h"
#include "core/check.h"
#include "core/text.h"

namespace raedit::backend::cuda {
namespace {

class CudaGraph final : public Graph {
 public:
  CudaGraph(std::shared_ptr<const Runtime> runtime, cudaGraph_t graph) : runtime_(std::move(runtime)) {
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    (void)cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    check(cudaGraphUpload(executable_, runtime_->stream()), "cudaGraphUpload");
  }
  ~CudaGraph() override {
    (void)cudaStreamSynchronize(runtime_->stream());
    (void)cudaGraphExecDestroy(executable_);
  }
  void launch() const override {
    check(cudaGraphLaunch(executable_, runtime_->stream()), "cudaGraphLaunch");
    runtime_->launched("cudaGraphLaunch");
  }

 private:
  std::shared_ptr<const Runtime> runtime_;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

CudaKernels::CudaKernels(int device)
    : runtime_(std::make_shared<Runtime>(device)), rt_(*runtime_), memory_(make_memory(runtime_)) {}

CudaKernels::~CudaKernels() {
  runtime_->release_workspace();
}

std::shared_ptr<const DeviceMemory> CudaKernels::memory() const {
  return memory_;
}

void CudaKernels::synchronize() const {
  rt_.synchronize();
}

std::unique_ptr<Graph> CudaKernels::capture(const std::function<void()>& work) const {
  check(cudaStreamBeginCapture(rt_.stream(), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    (void)cudaStreamEndCapture(rt_.stream(), &graph);
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(rt_.stream(), &graph), "cudaStreamEndCapture");
  return std::make_unique<CudaGraph>(runtime_, graph);
}

std::string CudaKernels::description() const {
  const cudaDeviceProp& p = rt_.properties();
  return fmt::format("cuda:{}, {}, {}", rt_.device(), p.name, human_bytes(p.totalGlobalMem));
}

}  // namespace raedit::backend::cuda
