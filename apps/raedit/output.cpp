#include "output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <iterator>
#include <utility>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"
#include "io/npy.h"
#include "io/safetensors.h"

namespace raedit::cli {
namespace fs = std::filesystem;
namespace {

Tensor class_labels_of(const std::vector<Picture>& pictures) {
  const Tensor labels = Tensor::empty({static_cast<int64_t>(pictures.size())}, DType::int64);
  for (size_t i = 0; i < pictures.size(); ++i) labels.data<int64_t>()[i] = pictures[i].class_id;
  return labels;
}

Tensor seeds_of(const std::vector<Picture>& pictures) {
  const Tensor seeds = Tensor::empty({static_cast<int64_t>(pictures.size())}, DType::int64);
  for (size_t i = 0; i < pictures.size(); ++i) seeds.data<int64_t>()[i] = static_cast<int64_t>(pictures[i].seed);
  return seeds;
}

// numpy's picture libraries want the channels last.
Tensor to_nhwc(const Tensor& nchw) {
  return nchw.transpose(1, 2).transpose(2, 3);
}

// Puts a batch where it belongs among all pictures.
void collect(Tensor& all, const Tensor& batch, int64_t first, size_t count) {
  if (!all.defined()) {
    Shape shape = batch.shape();
    shape.set(0, static_cast<int64_t>(count));
    all = Tensor::empty(shape, DType::float32);
  }
  all.slice(0, first, first + batch.dim(0)).copy_from(batch);
}

// A folder that is removed with all it holds unless everything went well.
class StagingFolder {
 public:
  explicit StagingFolder(const std::string& parent) : path_((fs::path(parent) / ".raedit-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) raise_write_error("cannot create a folder in", parent, errno);
  }
  ~StagingFolder() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  StagingFolder(const StagingFolder&) = delete;
  StagingFolder& operator=(const StagingFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Makes a folder and those above it; takes away again what it made unless keep() was called.
class NewFolder {
 public:
  explicit NewFolder(const std::string& folder) {
    std::error_code error;
    for (fs::path path = fs::absolute(folder, error).lexically_normal(); !fs::exists(path, error);
         path = path.parent_path())
      if (path.has_filename()) made_.push_back(path);
    create_directories(folder);
  }
  ~NewFolder() {
    std::error_code error;
    for (const fs::path& path : made_) fs::remove(path, error);  // only while empty
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  void keep() { made_.clear(); }

 private:
  std::vector<fs::path> made_;  // innermost first
};

}  // namespace

Output parse_output(const std::string& path, bool latents) {
  RAEDIT_CHECK(!path.empty(), {.code = ErrorCode::invalid_argument, .what = "no path", .where = "--output"});
  std::error_code error;
  Output output{OutputKind::folder, path};
  std::string ending = fs::path(path).extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool folder = path.back() == '/' || ending.empty() || fs::is_directory(path, error);
  if (!folder) {
    if (ending == ".png")
      output.kind = OutputKind::png;
    else if (ending == ".npy")
      output.kind = OutputKind::npy;
    else if (ending == ".npz")
      output.kind = OutputKind::npz;
    else if (ending == ".safetensors")
      output.kind = OutputKind::safetensors;
    else
      raise({.code = ErrorCode::invalid_argument,
             .what = "unknown kind of file",
             .where = "--output",
             .found = path,
             .expected = ".png, .npy, .npz, .safetensors or a folder",
             .hint = "end the path of a folder with '/'"});
  }
  const bool pictures_only = output.kind == OutputKind::png || output.kind == OutputKind::folder;
  RAEDIT_CHECK(!(latents && pictures_only), {.code = ErrorCode::invalid_argument,
                                             .what = "latents are not pictures",
                                             .where = "--output",
                                             .found = path,
                                             .expected = "a .safetensors, .npz or .npy file"});
  return output;
}

void check_file_writable(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  RAEDIT_CHECK(!fs::is_directory(status), {.code = ErrorCode::io, .what = "is a folder, not a file", .where = path});
  const fs::path parent = fs::path(path).parent_path();
  RAEDIT_CHECK(parent.empty() || fs::is_directory(parent, error), {.code = ErrorCode::not_found,
                                                                   .what = "the folder to write into does not exist",
                                                                   .where = path,
                                                                   .found = parent.string()});
  // Opening a pipe would wait for its reader, and closing it again would end what the reader sees.
  if (!fs::is_fifo(status)) AtomicFile probe(path);
}

void check_writable(const Output& output) {
  if (output.kind != OutputKind::folder) return check_file_writable(output.path);
  // The nearest folder above that exists is where writing would begin.
  std::error_code error;
  fs::path folder = fs::absolute(output.path, error);
  while (!fs::exists(folder, error) && folder.has_relative_path()) folder = folder.parent_path();
  RAEDIT_CHECK(fs::is_directory(folder, error), {.code = ErrorCode::io,
                                                 .what = "there is a file where a folder should be",
                                                 .where = output.path,
                                                 .found = folder.string()});
  AtomicFile probe((folder / ".raedit-probe").string());
}

OutputWriter::OutputWriter(Output output, RequestInfo info, std::vector<Picture> pictures, int grid_columns)
    : output_(std::move(output)), info_(std::move(info)), pictures_(std::move(pictures)), grid_columns_(grid_columns) {}

void OutputWriter::add(RAEDiTPipelineOutput batch, int64_t first) {
  if (output_.kind == OutputKind::folder) return add_to_folder(batch.pictures, static_cast<size_t>(first));
  std::move(batch.pictures.begin(), batch.pictures.end(), std::back_inserter(images_8bit_));
  if (output_.kind == OutputKind::png) return;
  if (batch.images.defined()) collect(images_, batch.images, first, pictures_.size());
  if (!batch.images.defined() || output_.kind == OutputKind::safetensors)
    collect(latents_, batch.latents, first, pictures_.size());
}

void OutputWriter::add_to_folder(const std::vector<Image>& images, size_t first) {
  NewFolder created(output_.path);
  const StagingFolder staging(output_.path);
  std::vector<std::string> names;
  for (size_t i = 0; i < images.size(); ++i) {
    const Picture& picture = pictures_[first + i];
    names.push_back(picture_file_name(info_, picture, first + i, pictures_.size()));
    save_png(images[i], (fs::path(staging.path()) / names[i]).string(), png_text(info_, {picture}));
  }
  for (const std::string& name : names) {
    const std::string path = (fs::path(output_.path) / name).string();
    std::error_code error;
    fs::rename(fs::path(staging.path()) / name, path, error);
    if (error) raise_write_error("cannot rename into place", path, error.value());
    created.keep();
    paths_.push_back(path);
  }
  sync_folder(output_.path);
}

void OutputWriter::write_npz_file() const {
  NamedTensors tensors;
  if (images_.defined()) tensors.emplace_back("images", to_nhwc(images_));
  if (!images_.defined()) tensors.emplace_back("latents", latents_);
  tensors.emplace_back("class_labels", class_labels_of(pictures_));
  if (info_.latents.empty()) tensors.emplace_back("seeds", seeds_of(pictures_));
  write_npz(output_.path, tensors);
}

void OutputWriter::write_safetensors_file() const {
  NamedTensors tensors;
  if (images_.defined()) tensors.emplace_back("images", images_);
  tensors.emplace_back("latents", latents_);
  tensors.emplace_back("class_labels", class_labels_of(pictures_));
  write_safetensors(output_.path, tensors, file_metadata(info_, pictures_));
}

const std::vector<std::string>& OutputWriter::finish() {
  switch (output_.kind) {
    case OutputKind::folder: return paths_;  // all is there
    case OutputKind::png:
      save_png(make_grid(images_8bit_, grid_columns_), output_.path, png_text(info_, pictures_));
      break;
    case OutputKind::npy: write_npy(output_.path, images_.defined() ? to_nhwc(images_) : latents_); break;
    case OutputKind::npz: write_npz_file(); break;
    case OutputKind::safetensors: write_safetensors_file(); break;
  }
  paths_.push_back(output_.path);
  return paths_;
}

}  // namespace raedit::cli
