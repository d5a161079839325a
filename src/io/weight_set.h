// WeightSet: the named tensors of a checkpoint, each read when asked for. Models load from it and writers write from
// it, whatever lies behind: safetensors, a torch archive, or another checkpoint under translated names.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/files.h"
#include "io/tensor_bytes.h"
#include "raedit/tensor.h"

namespace raedit {

struct TensorInfo {
  DType dtype = DType::float32;
  Shape shape;
  size_t offset = 0;  // of the first byte in the file; 0 where the tensor is not in one piece of one file
  size_t nbytes = 0;
};

class WeightSet {
 public:
  virtual ~WeightSet() = default;

  virtual const std::string& path() const = 0;  // what messages name
  virtual const std::vector<std::string>& names() const = 0;
  virtual bool contains(std::string_view name) const = 0;
  // These throw Error(not_found) for a name that is not there.
  virtual const TensorInfo& info(std::string_view name) const = 0;
  // Of info()'s dtype and shape, any strides; never to be written to. It keeps alive what it looks at.
  virtual Tensor tensor(std::string_view name) const = 0;
  // The same tensor as rows below rows, where putting it together would be a copy: pieces 0 to num_pieces - 1.
  virtual int num_pieces(std::string_view) const { return 1; }
  virtual Tensor piece(std::string_view name, int) const { return tensor(name); }
  // The file that holds the tensor, for messages.
  virtual const std::string& file_of(std::string_view name) const = 0;
  // All of them, mapped, in the same order whenever the same checkpoint is opened. Tensors may lie elsewhere.
  virtual std::vector<std::shared_ptr<const MappedFile>> files() const { return {}; }
  // Lets the tensor's pages leave the resident set, where it lies in a mapped file. They can be read again.
  virtual void drop_pages(std::string_view name) const = 0;
  // Has the disk bring them, for a tensor that is asked for soon.
  virtual void prefetch(std::string_view) const {}
};

// Tensors in memory as a WeightSet: computed tables, statistics, tests.
class MemoryWeights final : public WeightSet {
 public:
  // Throws Error(format) for a name that comes twice.
  MemoryWeights(std::string path, NamedTensors tensors);

  const std::string& path() const override { return path_; }
  const std::vector<std::string>& names() const override { return names_; }
  bool contains(std::string_view name) const override { return entries_.find(name) != entries_.end(); }
  const TensorInfo& info(std::string_view name) const override { return entry(name).info; }
  Tensor tensor(std::string_view name) const override { return entry(name).tensor; }
  const std::string& file_of(std::string_view) const override { return path_; }
  void drop_pages(std::string_view) const override {}

 private:
  struct Entry {
    TensorInfo info;
    Tensor tensor;
  };
  const Entry& entry(std::string_view name) const;

  std::string path_;
  std::vector<std::string> names_;
  std::map<std::string, Entry, std::less<>> entries_;
};

// Several checkpoints as one: shards, or parts of a model that come from different places.
class JoinedWeights final : public WeightSet {
 public:
  using Parts = std::vector<std::shared_ptr<const WeightSet>>;

  // `path` is what messages name: the first part's by default. Throws Error(format) for a name that comes twice.
  explicit JoinedWeights(Parts parts);
  JoinedWeights(std::string path, Parts parts);

  const std::string& path() const override { return path_; }
  const std::vector<std::string>& names() const override { return names_; }
  bool contains(std::string_view name) const override { return part_of_.find(name) != part_of_.end(); }
  const TensorInfo& info(std::string_view name) const override { return part(name).info(name); }
  Tensor tensor(std::string_view name) const override { return part(name).tensor(name); }
  int num_pieces(std::string_view name) const override { return part(name).num_pieces(name); }
  Tensor piece(std::string_view name, int i) const override { return part(name).piece(name, i); }
  const std::string& file_of(std::string_view name) const override { return part(name).file_of(name); }
  void drop_pages(std::string_view name) const override { part(name).drop_pages(name); }
  void prefetch(std::string_view name) const override { part(name).prefetch(name); }
  std::vector<std::shared_ptr<const MappedFile>> files() const override;

 private:
  const WeightSet& part(std::string_view name) const;

  std::string path_;
  Parts parts_;
  std::vector<std::string> names_;
  std::map<std::string, size_t, std::less<>> part_of_;
};

// Throws the Error(not_found) that every WeightSet owes, with the nearest names.
[[noreturn]] void raise_no_tensor(std::string_view name, const WeightSet& weights);

}  // namespace raedit
