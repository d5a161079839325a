// One rank alone, and the way to the others: libraedit_mpi.so, opened where ranks were started.
#include "dist/communicator.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstring>
#include <vector>

#include "core/own_library.h"
#include "dist/launch.h"
#include "dist/plugin.h"

namespace raedit::dist {
namespace {

class Done final : public Request {
 public:
  bool test() override { return true; }
  void wait() override {}
};

class SingleRank final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(std::span<float>) override {}
  void all_reduce(std::span<double>) override {}
  std::unique_ptr<Request> begin_all_reduce(std::span<float>) override { return std::make_unique<Done>(); }
  bool any(bool here) override { return here; }
  void broadcast(void*, size_t, int) override {}
  void barrier() override {}
  void end_all(int) override {}
};

constexpr const char* kLibrary = "libraedit_mpi.so";

// Never closed: MPI cannot be begun again.
const Plugin& plugin() {
  std::string why;
  for (const std::string& file : own_library_files(kLibrary, "RAEDIT_MPI_LIBRARY")) {
    // Global: MPI opens parts of itself that look for the rest of it.
    void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (library == nullptr) {
      const char* error = ::dlerror();
      if (why.empty()) why = error != nullptr ? error : file + " cannot be opened";
      continue;
    }
    const auto entry = reinterpret_cast<const Plugin* (*)()>(::dlsym(library, kPluginEntry));
    if (entry == nullptr) refuse(file + " is not the MPI of raedit", "reinstall raedit");
    const Plugin* made = entry();
    if (std::strcmp(made->build, kBuild) != 0)
      refuse(fmt::format("{} belongs to another build ({} here, {} there)", file, kBuild, made->build),
             "reinstall raedit");
    return *made;
  }
  refuse(why, "raedit is built with MPI where CMake finds one (RAEDIT_MPI=ON insists); without it, start one process");
}

}  // namespace

std::string Communicator::broadcast(std::string text, int root) {
  uint64_t length = text.size();
  broadcast(&length, sizeof(length), root);
  text.resize(length);
  broadcast(text.data(), text.size(), root);
  return text;
}

std::unique_ptr<Communicator> single_rank() {
  return std::make_unique<SingleRank>();
}

std::unique_ptr<Communicator> open_communicator() {
  const int started = started_ranks();
  if (started == 1) return single_rank();
  std::unique_ptr<Communicator> ranks(plugin().open());
  if (started != 0 && ranks->size() != started)
    refuse(fmt::format("{} were started, and MPI knows of {}", started, ranks->size()),
           "start them with the mpirun of the MPI that raedit was built with");
  return ranks;
}

}  // namespace raedit::dist
