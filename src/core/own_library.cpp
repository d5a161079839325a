#include "core/own_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

namespace raedit {
namespace {

namespace fs = std::filesystem;

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

}  // namespace

std::vector<std::string> own_library_files(const char* library, const char* variable) {
  if (const char* named = std::getenv(variable); named != nullptr && *named != '\0') return {named};
  std::vector<std::string> files;
  for (const fs::path& folder : own_folders())
    for (const fs::path& place : {folder / library, folder.parent_path() / "lib" / library}) {
      std::error_code error;
      if (fs::exists(place, error)) files.push_back(place.string());
    }
  files.emplace_back(library);
  return files;
}

}  // namespace raedit
