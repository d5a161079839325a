// A folder that appears whole or not at all: it is made beside its place (or, where that is a folder already, in a
// hidden one inside), and moved there at last.
#pragma once

#include <string>

namespace raedit {

class StagedFolder {
 public:
  // Nothing is touched at `path` until commit(). Throws Error(invalid_argument) when a file is in the way.
  explicit StagedFolder(std::string path);
  ~StagedFolder();  // what was not committed is removed
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  // Where to write: the staged stand-in of `path`/`relative`. "" is the folder itself.
  std::string at(const std::string& relative) const;

  // A new folder is renamed into its place. Into one that is there already the files are moved one by one, over
  // their namesakes, those at the top (model_index.json) last; older weights beside the new ones, which would be read
  // instead of them or with them, are removed.
  void commit();

 private:
  std::string path_;
  std::string staging_;
};

}  // namespace raedit
