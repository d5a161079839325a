#include "backend/device/cuda_plugin.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstring>
#include <string>
#include <vector>

#include "backend/cuda/plugin.h"
#include "core/own_library.h"

namespace raedit {
namespace {

using backend::cuda::refuse;

constexpr const char* kLibrary = "libraedit_cuda.so";

// Never closed: kernels and tensors point into it.
const backend::cuda::Plugin& plugin() {
  static const backend::cuda::Plugin* const found = [] {
    std::string why;
    for (const std::string& file : own_library_files(kLibrary, "RAEDIT_CUDA_LIBRARY")) {
      void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library == nullptr) {
        const char* error = ::dlerror();
        if (why.empty()) why = error != nullptr ? error : file + " cannot be opened";
        continue;
      }
      const auto entry =
          reinterpret_cast<const backend::cuda::Plugin* (*)()>(::dlsym(library, backend::cuda::kPluginEntry));
      if (entry == nullptr) refuse(file + " is not the CUDA device of raedit", "reinstall raedit");
      const backend::cuda::Plugin* made = entry();
      if (std::strcmp(made->build, backend::cuda::kBuild) != 0)
        refuse(fmt::format("{} belongs to another build ({} here, {} there)", file, backend::cuda::kBuild, made->build),
               "reinstall raedit");
      return made;
    }
    refuse(why, "raedit is built with CUDA where nvcc is found; a GPU needs NVIDIA's driver and libcublasLt.so.13");
  }();
  return *found;
}

}  // namespace

std::unique_ptr<backend::Kernels> load_cuda_kernels(int index) {
  return std::unique_ptr<backend::Kernels>(plugin().make_kernels(index));
}

}  // namespace raedit
