// safetensors: eight bytes of header length, a JSON header, one buffer of numbers. Reading is strict: every file that
// is not exactly what the format says is an Error that names file, tensor, found and expected. Source:
// https://github.com/huggingface/safetensors (README, safetensors/src/tensor.rs); sharded folders as diffusers writes
// them (models/modeling_utils.py, utils/hub_utils.py).
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/files.h"
#include "io/tensor_bytes.h"
#include "io/tensor_source.h"
#include "io/weight_set.h"
#include "raedit/tensor.h"

namespace raedit {

using SafetensorsMetadata = std::map<std::string, std::string>;

// One file, mapped. Copies share the mapping.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);

  const std::string& path() const;
  const std::vector<std::string>& names() const;  // in the order of their numbers in the file
  bool contains(std::string_view name) const;
  // Both throw Error(not_found) for a name that is not in the file.
  const TensorInfo& info(std::string_view name) const;
  // A read-only view that keeps the mapping alive; a copy only where the file's numbers are misaligned.
  Tensor tensor(std::string_view name) const;
  // Lets the tensor's pages leave the resident set, once its numbers have been packed or copied. They can be read
  // again.
  void drop_pages(std::string_view name) const;
  void prefetch(std::string_view name) const;
  const SafetensorsMetadata& metadata() const;
  // All of it, header included.
  std::shared_ptr<const MappedFile> file() const;

 private:
  struct State;
  explicit SafetensorsFile(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

// The weights of a model folder, in one file or in shards, behind the interface of one file.
//   BASE[.VARIANT].safetensors, or BASE.safetensors.index[.VARIANT].json beside
//   BASE[.VARIANT]-00001-of-0000N.safetensors
// An index wins over a single file, as in diffusers.
class SafetensorsSet final : public WeightSet {
 public:
  static SafetensorsSet open(const std::string& folder, const std::string& base = "diffusion_pytorch_model",
                             const std::string& variant = "");

  // One file, whatever its name.
  explicit SafetensorsSet(const SafetensorsFile& file) : path_(file.path()) { add(file); }

  const std::string& path() const override { return path_; }  // of the single file, or of the index
  const std::vector<std::string>& names() const override { return names_; }
  bool contains(std::string_view name) const override { return shard_of_.find(name) != shard_of_.end(); }
  const TensorInfo& info(std::string_view name) const override { return shard(name).info(name); }
  Tensor tensor(std::string_view name) const override { return shard(name).tensor(name); }
  const std::string& file_of(std::string_view name) const override { return shard(name).path(); }
  void drop_pages(std::string_view name) const override { shard(name).drop_pages(name); }
  void prefetch(std::string_view name) const override { shard(name).prefetch(name); }
  std::vector<std::shared_ptr<const MappedFile>> files() const override;
  // Of the single file, or of the first shard.
  const SafetensorsMetadata& metadata() const { return shards_.front().metadata(); }
  const std::vector<SafetensorsFile>& shards() const { return shards_; }

 private:
  SafetensorsSet() = default;
  void add(const SafetensorsFile& file);
  const SafetensorsFile& shard(std::string_view name) const;

  std::string path_;
  std::vector<SafetensorsFile> shards_;
  std::vector<std::string> names_;
  std::map<std::string, size_t, std::less<>> shard_of_;
};

// The tensors are laid out as the Rust library does (wider dtypes first, then by name), so that equal content is equal
// bytes. The file appears whole or not at all.
void write_safetensors(const std::string& path, const std::vector<TensorSource>& tensors,
                       const SafetensorsMetadata& metadata = {});
void write_safetensors(const std::string& path, const NamedTensors& tensors, const SafetensorsMetadata& metadata = {});

// A single file when everything fits in `max_shard_bytes`, else shards filled in the order given, and the index.
// Weights of the same base and variant that were in the folder before are removed at the end, as diffusers does.
void write_safetensors_sharded(const std::string& folder, const std::string& base, const std::string& variant,
                               const std::vector<TensorSource>& tensors, size_t max_shard_bytes,
                               const SafetensorsMetadata& metadata = {{"format", "pt"}});

}  // namespace raedit
