// Scratch folders and the question "did it fail, and does the message say why?".
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "raedit/error.h"
#include "raedit/tensor.h"

namespace raedit::test {

// Fresh and empty, gone at the end.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = ::testing::TempDir() + "raedit_io_XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  ~ScratchFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      found.push_back(entry.path().filename().string());
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  std::string path_;
};

// Files of this process end at `bytes`: what a full disk looks like without one.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) throw std::runtime_error("setrlimit");
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

inline std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void spit(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

// Runs `call`, which must throw an Error with this code whose message contains all of `parts`.
template <class Call>
void expect_error(ErrorCode code, const std::vector<std::string>& parts, Call call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), code) << message;
    for (const std::string& part : parts)
      EXPECT_NE(message.find(part), message.npos) << part << "\nnot in: " << message;
    return;
  }
  ADD_FAILURE() << "no error";
}

// Random bytes, so every bit of every element counts; bool gets 0 and 1 only.
inline Tensor random_tensor(const Shape& shape, DType dtype, uint64_t seed) {
  std::mt19937_64 engine(seed);
  Tensor tensor = Tensor::empty(shape, dtype);
  for (size_t i = 0; i < tensor.nbytes(); ++i)
    tensor.raw()[i] = static_cast<std::byte>(dtype == DType::bool8 ? engine() & 1 : engine() & 0xff);
  return tensor;
}

inline std::string bytes_of(const Tensor& tensor) {
  const Tensor flat = tensor.contiguous();
  return {reinterpret_cast<const char*>(flat.raw()), flat.nbytes()};
}

}  // namespace raedit::test
