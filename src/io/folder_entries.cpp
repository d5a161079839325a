#include "io/folder_entries.h"

#include "io/files.h"

namespace raedit {
namespace fs = std::filesystem;

std::vector<fs::directory_entry> folder_entries(const std::string& folder) {
  std::vector<fs::directory_entry> entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) entries.push_back(*it);
  if (error) raise_read_error("cannot read the folder", folder, error.value());
  return entries;
}

}  // namespace raedit
