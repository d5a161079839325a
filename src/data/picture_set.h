// Pictures with class ids, by number: what training reads, wherever it lies.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "raedit/image.h"

namespace raedit::data {

// May be read from many threads at once.
class PictureSet {
 public:
  virtual ~PictureSet() = default;

  virtual int64_t size() const = 0;
  virtual const std::vector<std::string>& classes() const = 0;  // names; the place is the id
  virtual int64_t class_id(int64_t index) const = 0;
  // What messages call it: a path, or "shard.tar: member".
  virtual std::string name(int64_t index) const = 0;
  // The file as it stands. Throws Error(io), Error(not_found).
  virtual std::string bytes(int64_t index) const = 0;
  // SHA-256, in hex, of every name (below the root), class and size: changes when a picture comes, goes, moves to
  // another class or has another number of bytes. Not of the pixels: nothing is read for it.
  virtual std::string fingerprint() const = 0;

  // Decoded, as 8-bit RGB. Throws Error(format), Error(unsupported), Error(io), naming the file.
  Image picture(int64_t index) const;
};

// A folder of class folders (image_folder.h), one .tar file of WebDataset's kind, a folder that holds .tar files, or
// shards as a brace list, "DIR/train-{000..127}.tar". Throws Error(not_found), Error(format), Error(unsupported) for
// compressed shards, Error(invalid_argument) for a wrong list.
std::shared_ptr<const PictureSet> open_picture_set(const std::string& path);

}  // namespace raedit::data
