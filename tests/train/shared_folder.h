// A scratch folder that the ranks of a test share.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "dist/started_ranks.h"
#include "io/io_test_util.h"

namespace raedit::test {

// One folder for all ranks, which the first removes when all are done with it.
class SharedFolder {
 public:
  SharedFolder() {
    if (ranks().is_first()) scratch_.emplace();
    path_ = ranks().broadcast(ranks().is_first() ? scratch_->path() : std::string(), 0);
  }
  ~SharedFolder() { ranks().barrier(); }
  SharedFolder(const SharedFolder&) = delete;
  SharedFolder& operator=(const SharedFolder&) = delete;
  std::string operator/(const std::string& name) const { return (std::filesystem::path(path_) / name).string(); }

 private:
  std::optional<test::ScratchFolder> scratch_;
  std::string path_;
};

}  // namespace raedit::test
