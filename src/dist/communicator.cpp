// One rank alone, and the way to the others: libraedit_mpi.so, opened where ranks were started.
#include "dist/communicator.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

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

namespace fs = std::filesystem;

constexpr const char* kLibrary = "libraedit_mpi.so";

// The folders of the library that holds this code, if it is one, and of the program.
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
  if (const char* named = std::getenv("RAEDIT_MPI_LIBRARY"); named != nullptr && *named != '\0') return {named};
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

// Never closed: MPI cannot be begun again.
const Plugin& plugin() {
  std::string why;
  for (const std::string& file : candidates()) {
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
