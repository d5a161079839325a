// Packed matrices that outlive the process: a device that packs on the host asks a store before it packs a weight, and
// hands it what it packed.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "raedit/tensor.h"

namespace raedit::backend {

// What packed bytes depend on besides the weights.
struct PackedForm {
  std::string_view name;
  Tensor numbers = {};  // what a calibration says of these weights; undefined: none
};

class PackedStore {
 public:
  virtual ~PackedStore() = default;
  // What was kept for the rows of these weights, one after another: `bytes` bytes, 64-byte aligned, read-only; null
  // where there is nothing.
  virtual std::shared_ptr<Storage> find(std::span<const Tensor> weights, const PackedForm& form, size_t bytes) = 0;
  virtual void keep(std::span<const Tensor> weights, const PackedForm& form, std::shared_ptr<Storage> packed) = 0;
};

// A device whose packed matrices are plain bytes of the host.
class PacksOnHost {
 public:
  virtual ~PacksOnHost() = default;
  // Names the layout; another name whenever the same weight would become other bytes.
  virtual std::string packed_layout() const = 0;
  // Null: none. For weights that stay as long as their model; while loading, from one thread.
  virtual void set_packed_store(std::shared_ptr<PackedStore> store) = 0;
};

}  // namespace raedit::backend
