// A data set as folders: one folder for each class, pictures anywhere below it. Order and class ids are torchvision's
// ImageFolder's (datasets/folder.py), so that an index means the same picture there and here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace raedit::data {

struct ImageFolderEntry {
  std::string path;
  int64_t class_id = 0;
};

struct ImageFolder {
  std::vector<std::string> classes;       // folder names, sorted; the place is the id
  std::vector<ImageFolderEntry> entries;  // by class, then by folder, then by name

  // Reads names only. Throws Error(not_found) for a folder that is not there, Error(format) for one without class
  // folders and for classes without pictures, naming them.
  static ImageFolder open(const std::string& folder);
};

}  // namespace raedit::data
