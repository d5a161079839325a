// Where pictures go: a PNG, a folder of PNGs, numpy's files or safetensors. Decided and tried before any work,
// written whole or not at all.
#pragma once

#include <string>
#include <vector>

#include "picture.h"
#include "raedit/image.h"
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

// What is needed of these depends on the kind of output.
struct Results {
  std::vector<Picture> pictures;
  std::vector<Image> images_8bit;  // png and folder
  Tensor images;                   // [N,3,S,S] float32 in [0,1]; undefined when the result is latents
  Tensor latents;                  // [N,C,S,S] float32; undefined unless the output holds them
};

// Paths of what was written.
std::vector<std::string> write_output(const Output& output, const Results& results, const RequestInfo& info,
                                      int grid_columns);

}  // namespace raedit::cli
