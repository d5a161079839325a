// numpy's files, for what leaves raedit for Python: .npy (one array) and .npz (several, in a stored zip).
// Sources: numpy/lib/format.py (format 1.0), PKWARE APPNOTE 6.3 (zip, zip64).
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "io/files.h"
#include "io/tensor_bytes.h"

namespace raedit {

// C order, any strides. bfloat16 and float8, which numpy does not know, are written as float32. Whole or not at all.
void write_npy(const std::string& path, const Tensor& tensor);

// numpy.load(path)[name] for each name.
void write_npz(const std::string& path, const NamedTensors& tensors);

// The same, one array at a time, so that not all need be in memory. Nothing appears without commit().
class NpzWriter {
 public:
  // Sizes and offsets from `zip64_from` on are written as zip64; only a test needs another limit.
  explicit NpzWriter(const std::string& path, uint64_t zip64_from = 0xffffffff);

  void add(const std::string& name, const Tensor& tensor);
  void commit();

 private:
  struct Entry {
    std::string file_name;
    uint32_t crc = 0;
    uint64_t bytes = 0;
    uint64_t offset = 0;
  };
  void write_central_directory();

  std::string path_;
  AtomicFile file_;
  uint64_t zip64_from_;
  std::vector<Entry> entries_;
  std::set<std::string> names_;
};

}  // namespace raedit
