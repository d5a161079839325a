// numpy's files, for what leaves raedit for Python: .npy (one array) and .npz (several, in a stored zip).
// Sources: numpy/lib/format.py (format 1.0), PKWARE APPNOTE 6.3 (zip, zip64).
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "io/tensor_bytes.h"
#include "io/zip_writer.h"

namespace raedit {

// C order, any strides. bfloat16 and float8, which numpy does not know, are written as float32. Whole or not at all.
void write_npy(const std::string& path, const Tensor& tensor);

// numpy.load(path)[name] for each name.
void write_npz(const std::string& path, const NamedTensors& tensors);

// The same, one array at a time, so that not all need be in memory. Nothing appears without commit().
class NpzWriter {
 public:
  // `zip64_from` as in ZipWriter.
  explicit NpzWriter(const std::string& path, uint64_t zip64_from = ZipWriter::kZip64From)
      : path_(path), zip_(path, zip64_from) {}

  void add(const std::string& name, const Tensor& tensor);
  void commit() { zip_.commit(); }

 private:
  std::string path_;
  ZipWriter zip_;
  std::set<std::string> names_;
};

}  // namespace raedit
