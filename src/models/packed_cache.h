// A folder of packed weights: one file per content of a checkpoint, dtype, quantization and layout, mapped by every
// process that loads that checkpoint.
//
// A file is: "RAEPACK1", the length of the header (8 bytes, little-endian), the CRC-32 of the header (4 bytes), 4
// zeros, the header in JSON {"key", "bytes" and "crc32" of each 4 MiB of the data, "entries": [[id, offset, bytes],
// ...]}, zeros up to a multiple of 4096, the data. The key is the SHA-256 of the layout's name, the dtype, the
// quantization, the SHA-256 of the calibration, and the size and the CRC-32 of every MiB of each file of the
// checkpoint: any change within 32 neighbouring bits is noticed for certain, any other by chance with 1 - 2^-32 a MiB.
// That is against accidents; who can write the folder can put other weights there. The encoder of an autoencoder, which
// is packed when somebody encodes, has a file of its own, whose key is the SHA-256 of the other one's and "encoder".
//
// An entry's id is the form that its matrix was packed in, and where in which file of the checkpoint the matrix lies:
// not the order in which modules load. One that does not lie there as it is, put together from several tensors or
// inflated, goes by its content: the SHA-256 of the CRC-32s of each 2^18 numbers.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/kernels.h"
#include "backend/packed_store.h"
#include "io/files.h"
#include "io/weight_set.h"
#include "raedit/pretrained.h"

namespace raedit::models {

class PackedCache final : public backend::PackedStore {
 public:
  // Null unless `options` or RAEDIT_PACKED_CACHE name a folder, the weights come from files and the device packs on the
  // host. It reads the whole checkpoint for the key, and the whole cached file for its CRC. The kernels use it from now
  // on. A file that is not what it should be is said through options.note, and made anew.
  static std::shared_ptr<PackedCache> open(const WeightSet& weights, const LoadOptions& options,
                                           backend::Kernels& kernels);
  // The same for a part of these weights that is loaded at another time, in a file of its own; the checkpoint is not
  // read again.
  std::shared_ptr<PackedCache> open_part(const std::string& part, backend::Kernels& kernels) const;

  std::shared_ptr<Storage> find(std::span<const Tensor> weights, const backend::PackedForm& form,
                                size_t bytes) override;
  void keep(std::span<const Tensor> weights, const backend::PackedForm& form, std::shared_ptr<Storage> packed) override;

  // A file of this checkpoint and this calibration is there, so that once a load found that they belong together.
  bool knows_calibration() const { return !found_.empty(); }

  // Once the model is loaded: writes the file, where there was none or something was missing. A folder that cannot be
  // written is said, and no error.
  void finish();

 private:
  struct Entry {
    std::string id;
    std::shared_ptr<Storage> bytes;
  };

  using Files = std::vector<std::shared_ptr<const MappedFile>>;

  static std::shared_ptr<PackedCache> open_file(std::string key, const LoadOptions& options, Files files,
                                                backend::PacksOnHost& packer);
  PackedCache(std::string key, const LoadOptions& options, Files files);
  void read();
  void write() const;
  std::string id_of(std::span<const Tensor> weights, const backend::PackedForm& form) const;
  void note(const std::string& text) const;

  std::string path_, key_;
  LoadOptions options_;
  Files files_;  // of the checkpoint
  std::map<std::string, std::shared_ptr<Storage>> found_;
  std::vector<Entry> used_;
  bool complete_ = true;  // nothing had to be packed
};

}  // namespace raedit::models
