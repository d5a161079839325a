#include "data/picture_set.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <utility>

#include "core/check.h"
#include "data/fingerprint.h"
#include "data/image_folder.h"
#include "data/tar_shards.h"
#include "io/files.h"
#include "io/picture_codec.h"

namespace raedit::data {
namespace fs = std::filesystem;
namespace {

class FolderSet : public PictureSet {
 public:
  explicit FolderSet(const std::string& folder)
      : folder_(ImageFolder::open(folder)), root_bytes_((fs::path(folder) / "x").string().size() - 1) {}

  int64_t size() const override { return static_cast<int64_t>(folder_.entries.size()); }
  const std::vector<std::string>& classes() const override { return folder_.classes; }
  int64_t class_id(int64_t index) const override { return at(index).class_id; }
  std::string name(int64_t index) const override { return at(index).path; }

  std::string bytes(int64_t index) const override {
    const std::string& path = at(index).path;
    (void)bytes_of(path);  // opening a pipe would wait for who writes to it
    return read_file(path, kMaxImageFileBytes);
  }

  std::string fingerprint() const override {
    Fingerprint fingerprint;
    for (const ImageFolderEntry& entry : folder_.entries)
      fingerprint.add(std::string_view(entry.path).substr(root_bytes_), entry.class_id, bytes_of(entry.path));
    return fingerprint.hex();
  }

 private:
  const ImageFolderEntry& at(int64_t index) const { return folder_.entries[static_cast<size_t>(index)]; }

  static uint64_t bytes_of(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) raise_read_error("cannot read", path, errno);
    RAEDIT_CHECK(S_ISREG(status.st_mode), {.code = ErrorCode::io, .what = "is not a regular file", .where = path});
    return static_cast<uint64_t>(status.st_size);
  }

  ImageFolder folder_;
  size_t root_bytes_;  // of every path
};

struct Content {
  std::vector<std::string> shards, compressed;
  bool has_folders = false;
};

Content content_of(const std::string& folder) {
  constexpr std::array<std::string_view, 7> kCompressed = {".tar.gz",  ".tgz",     ".tar.zst", ".tar.xz",
                                                           ".tar.bz2", ".tar.lz4", ".tar.Z"};
  Content content;
  std::error_code error;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code status;
    // Folders whose names begin with a dot are the bookkeeping of programs that download.
    if (it->is_directory(status))
      content.has_folders |= !name.starts_with('.');
    else if (name.ends_with(".tar"))
      content.shards.push_back(it->path().string());
    else if (std::any_of(kCompressed.begin(), kCompressed.end(), [&](auto ending) { return name.ends_with(ending); }))
      content.compressed.push_back(it->path().string());
  }
  if (error) raise_read_error("cannot read the folder", folder, error.value());
  std::sort(content.shards.begin(), content.shards.end());
  std::sort(content.compressed.begin(), content.compressed.end());
  return content;
}

std::shared_ptr<const PictureSet> open_folder(const std::string& folder) {
  const Content content = content_of(folder);
  if (content.has_folders) {
    RAEDIT_CHECK(content.shards.empty(), {.code = ErrorCode::format,
                                          .what = "folder holds both shards and folders",
                                          .where = folder,
                                          .found = content.shards[0],
                                          .expected = "class folders or .tar files",
                                          .hint = "name the shards, as in DIR/{000..127}.tar, or move them away"});
    return std::make_shared<FolderSet>(folder);
  }
  RAEDIT_CHECK(content.compressed.empty(),
               {.code = ErrorCode::unsupported,
                .what = "shards that are compressed cannot be read",
                .where = content.compressed[0],
                .expected = "plain .tar files, of which pictures are read where they lie",
                .hint = "unpack them (gunzip, unzstd, ...): JPEG, PNG and WebP hardly get smaller"});
  if (!content.shards.empty()) return open_tar_shards(content.shards);
  return std::make_shared<FolderSet>(folder);  // says what is missing
}

}  // namespace

Image PictureSet::picture(int64_t index) const {
  return decode_image(bytes(index), name(index));
}

std::shared_ptr<const PictureSet> open_picture_set(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::is_directory(status)) return open_folder(path);
  if (!fs::exists(status) && path.find('{') != path.npos) return open_tar_shards(expand_braces(path));
  RAEDIT_CHECK(fs::exists(status), {.code = ErrorCode::not_found,
                                    .what = "there are no pictures",
                                    .where = path,
                                    .expected = "a folder of class folders, a .tar file, or DIR/{000..127}.tar",
                                    .hint = "check the path"});
  return open_tar_shards({path});
}

}  // namespace raedit::data
