// Runs the built program in a scratch folder and looks at its exit code, its output and the files it left.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "core/json.h"
#include "raedit/tensor.h"

namespace raedit::cli_test {

struct RunOptions {
  std::map<std::string, std::string> environment;  // added to ours, which has no RAEDIT_ variables
  long address_space_limit = -1;                   // bytes of memory that may be mapped
  long file_size_limit = -1;                       // bytes a file may have before writing fails, as on a full disk
  int interrupt_after_ms = -1;                     // SIGINT that long after its first line on stderr
  bool terminal = false;                           // stderr is a terminal of 80 columns
};

struct Result {
  int exit_code = -1;  // 128 + signal when it was killed
  std::string out, err;
};

// One fresh folder, the program's working directory.
class CliTest : public ::testing::Test {
 protected:
  CliTest();
  ~CliTest() override;

  Result run(const std::vector<std::string>& arguments, const RunOptions& options = {}) const;
  // It must end with `exit_code`, with one line on stderr (after progress) that starts with "raedit: error: " and holds
  // every part, nothing on stdout, and no file made or changed.
  void expect_failure(const std::vector<std::string>& arguments, int exit_code, const std::vector<std::string>& parts,
                      const RunOptions& options = {}) const;
  // It must end with 0. The result's stdout.
  std::string expect_success(const std::vector<std::string>& arguments, const RunOptions& options = {}) const;

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  // Relative paths of all files and folders, with the size and content's hash of files: equal when nothing changed.
  std::map<std::string, std::string> snapshot() const;
  std::vector<std::string> names(const std::string& folder = ".") const;
  // The tiny reference pipeline, copied to NAME, to be damaged. 4 classes, latents [N,128,4,4], pictures of 32 x 32.
  std::string tiny_model(const std::string& name = "model") const;

 private:
  std::string folder_;
};

std::string data_path(const std::string& name);  // below tests/parity/data
std::string source_path(const std::string& name);

std::string slurp(const std::string& path);
void spit(const std::string& path, const std::string& content);
Tensor read_tensor(const std::string& file, const std::string& name);
// Rewrites the safetensors file: a tensor is replaced or added, or taken out when `tensor` is undefined.
void change_tensor(const std::string& file, const std::string& name, const Tensor& tensor);
// Rewrites one key of a JSON file.
void change_key(const std::string& file, const std::string& key, const Json& value);
// A safetensors file with this header, its length in front, and `data_bytes` of numbers.
std::string raw_safetensors(const std::string& header, size_t data_bytes);

bool same_bytes(const Tensor& a, const Tensor& b);
double max_difference(const Tensor& a, const Tensor& b);

}  // namespace raedit::cli_test
