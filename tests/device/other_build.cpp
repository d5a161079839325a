// A libraedit_cuda.so of another build: must be refused before anything of it is used.
#include "backend/cuda/plugin.h"
#include "raedit/export.h"

namespace {
constexpr raedit::backend::cuda::Plugin kPlugin{"0.0.0-another", nullptr};
}

extern "C" RAEDIT_API const raedit::backend::cuda::Plugin* raedit_cuda_plugin() {
  return &kPlugin;
}
