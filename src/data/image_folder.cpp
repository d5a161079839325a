#include "data/image_folder.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"

namespace raedit::data {
namespace fs = std::filesystem;
namespace {

// torchvision's list; what cannot be decoded is told when it is read.
constexpr std::array<std::string_view, 9> kEndings = {".jpg", ".jpeg", ".png",  ".ppm", ".bmp",
                                                      ".pgm", ".tif",  ".tiff", ".webp"};

bool is_picture(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  return std::any_of(kEndings.begin(), kEndings.end(), [&](std::string_view ending) { return name.ends_with(ending); });
}

struct Listing {
  std::vector<std::string> folders, files;  // names, sorted by bytes, as Python sorts UTF-8
};

Listing list(const std::string& folder) {
  Listing listing;
  std::error_code error;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    std::error_code status;
    (it->is_directory(status) ? listing.folders : listing.files).push_back(it->path().filename().string());
  }
  if (error) raise_read_error("cannot read the folder", folder, error.value());
  std::sort(listing.folders.begin(), listing.folders.end());
  std::sort(listing.files.begin(), listing.files.end());
  return listing;
}

constexpr size_t kDeepest = 64;

using FolderId = std::pair<dev_t, ino_t>;

FolderId id_of(const std::string& folder) {
  struct stat status {};
  if (stat(folder.c_str(), &status) != 0) raise_read_error("cannot read the folder", folder, errno);
  return {status.st_dev, status.st_ino};
}

// `above`: the folders on the way here. Links may lead in circles, and would count their pictures again and again.
void collect(const std::string& folder, std::vector<FolderId>& above,
             std::vector<std::pair<std::string, std::vector<std::string>>>& found) {
  const FolderId id = id_of(folder);
  RAEDIT_CHECK(std::find(above.begin(), above.end(), id) == above.end(), {.code = ErrorCode::format,
                                                                          .what = "a folder of a data set holds itself",
                                                                          .where = folder,
                                                                          .found = "a link to a folder above it",
                                                                          .hint = "remove the link"});
  RAEDIT_CHECK(above.size() < kDeepest, {.code = ErrorCode::format,
                                         .what = "folders of a data set are nested too deeply",
                                         .where = folder,
                                         .expected = fmt::format("at most {} deep", kDeepest)});
  above.push_back(id);
  Listing listing = list(folder);
  for (const std::string& name : listing.folders) collect(folder + "/" + name, above, found);
  above.pop_back();
  found.emplace_back(folder, std::move(listing.files));
}

}  // namespace

ImageFolder ImageFolder::open(const std::string& folder) {
  std::error_code error;
  RAEDIT_CHECK(fs::is_directory(folder, error),
               {.code = ErrorCode::not_found, .what = "there is no such folder", .where = folder});
  ImageFolder result;
  result.classes = list(folder).folders;
  RAEDIT_CHECK(!result.classes.empty(), {.code = ErrorCode::format,
                                         .what = "this is no image folder",
                                         .where = folder,
                                         .found = "no folders in it",
                                         .expected = "one folder for each class"});
  std::vector<std::string> empty;
  for (size_t id = 0; id < result.classes.size(); ++id) {
    std::vector<std::pair<std::string, std::vector<std::string>>> found;
    std::vector<FolderId> above{id_of(folder)};
    collect((fs::path(folder) / result.classes[id]).string(), above, found);
    std::sort(found.begin(), found.end());
    const size_t before = result.entries.size();
    for (const auto& [path, names] : found)
      for (const std::string& name : names)
        if (is_picture(name)) result.entries.push_back({path + "/" + name, static_cast<int64_t>(id)});
    if (result.entries.size() == before) empty.push_back(result.classes[id]);
  }
  RAEDIT_CHECK(empty.empty(), {.code = ErrorCode::format,
                               .what = "classes without pictures",
                               .where = folder,
                               .found = join(empty),
                               .expected = fmt::format("files ending in {}", fmt::join(kEndings, ", "))});
  return result;
}

}  // namespace raedit::data
