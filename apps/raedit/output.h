// Where pictures go: a PNG, a folder of PNGs, numpy's files or safetensors. Decided and tried before any work; every
// file is written whole or not at all.
#pragma once

#include <string>
#include <vector>

#include "picture.h"
#include "raedit/image.h"
#include "raedit/rae_dit_pipeline.h"
#include "raedit/tensor.h"

namespace raedit::cli {

enum class OutputKind { png, folder, npy, npz, safetensors };

struct Output {
  OutputKind kind = OutputKind::png;
  std::string path;
};

// From the ending of the path; a folder is one that exists, ends in '/', or has no ending. Throws
// Error(invalid_argument) for other endings, and for PNG when the result is latents.
Output parse_output(const std::string& path, bool latents);

// Throws Error(io) or Error(not_found) when nothing could be written there. Leaves no trace.
void check_writable(const Output& output);
void check_file_writable(const std::string& path);

// Takes the pictures of a request batch by batch, and writes them: a folder's at once, so that hours of work are not
// lost to an interruption nor kept in memory, a file's at the end.
class OutputWriter {
 public:
  // `pictures` are all that will come.
  OutputWriter(Output output, RequestInfo info, std::vector<Picture> pictures, int grid_columns);

  // Pictures `first`, `first + 1`, ... of the request. Of a folder's batch all files are on the disk before the first
  // gets its name.
  void add(RAEDiTPipelineOutput batch, int64_t first);
  // The rest. Call it once, last. Paths of all that was written.
  const std::vector<std::string>& finish();
  const std::vector<std::string>& written() const { return paths_; }

 private:
  void add_to_folder(const std::vector<Image>& images, size_t first);
  void write_npz_file() const;
  void write_safetensors_file() const;

  Output output_;
  RequestInfo info_;
  std::vector<Picture> pictures_;
  int grid_columns_;
  std::vector<std::string> paths_;
  // What is kept until the end depends on the kind of output.
  std::vector<Image> images_8bit_;  // png
  Tensor images_;                   // [N,3,S,S] float32 in [0,1]; undefined when the result is latents
  Tensor latents_;                  // [N,C,S,S] float32; undefined unless the output holds them
};

}  // namespace raedit::cli
