#include "data/image_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
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

// Links may lead in circles.
constexpr int kDeepest = 64;

void collect(const std::string& folder, int depth,
             std::vector<std::pair<std::string, std::vector<std::string>>>& found) {
  RAEDIT_CHECK(depth < kDeepest, {.code = ErrorCode::format,
                                  .what = "folders of a data set are nested too deeply",
                                  .where = folder,
                                  .expected = fmt::format("at most {} deep", kDeepest),
                                  .hint = "a link may lead back to where it is"});
  Listing listing = list(folder);
  for (const std::string& name : listing.folders) collect(folder + "/" + name, depth + 1, found);
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
    collect((fs::path(folder) / result.classes[id]).string(), 0, found);
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
