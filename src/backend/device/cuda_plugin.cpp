#include "backend/device/cuda_plugin.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "backend/cuda/plugin.h"

namespace raedit {
namespace {

namespace fs = std::filesystem;
using backend::cuda::refuse;

constexpr const char* kLibrary = "libraedit_cuda.so";

// The folders of the library that holds this code, if it is one, and of the program. A program's own name is what it
// was called by, which may be no path at all.
std::vector<fs::path> own_folders() {
  std::vector<fs::path> folders;
  std::error_code error;
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&own_folders), &info) != 0 && info.dli_fname != nullptr) {
    const fs::path file = fs::canonical(info.dli_fname, error);
    if (!error) folders.push_back(file.parent_path());
  }
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) folders.push_back(program.parent_path());
  return folders;
}

std::vector<std::string> candidates() {
  if (const char* named = std::getenv("RAEDIT_CUDA_LIBRARY"); named != nullptr && *named != '\0') return {named};
  std::vector<std::string> files;
  for (const fs::path& folder : own_folders()) {
    for (const fs::path& place : {folder / kLibrary, folder.parent_path() / "lib" / kLibrary}) {
      std::error_code error;
      if (fs::exists(place, error)) files.push_back(place.string());
    }
  }
  files.emplace_back(kLibrary);
  return files;
}

// Never closed: kernels and tensors point into it.
const backend::cuda::Plugin& plugin() {
  static const backend::cuda::Plugin* const found = [] {
    std::string why;
    for (const std::string& file : candidates()) {
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
