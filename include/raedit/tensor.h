// Tensor: a strided view of shared memory. Copying a Tensor copies the view, never the numbers.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "raedit/dtype.h"
#include "raedit/export.h"
#include "raedit/shape.h"

namespace raedit {

class DeviceMemory;

// A run of bytes with an owner: allocated, mapped from a file, or lent by an arena. Freed by `release` when the last
// Tensor that looks at it is gone.
class RAEDIT_API Storage {
 public:
  using Release = std::function<void(std::byte*, size_t)>;

  // Takes over `data`. `read_only` storage (a mapped file) must not be written. `memory`: the device's where `data` is
  // an address that the processor cannot read.
  Storage(std::byte* data, size_t bytes, Release release, bool read_only = false,
          std::shared_ptr<const DeviceMemory> memory = nullptr);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  // 64-byte aligned, uninitialised. Throws Error(out_of_memory).
  static std::shared_ptr<Storage> allocate(size_t bytes);

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  bool read_only() const { return read_only_; }
  // Null for host memory.
  const std::shared_ptr<const DeviceMemory>& memory() const { return memory_; }
  // Unique in the process and never used again, unlike the address: names the storage in a gradient tape.
  uint64_t id() const { return id_; }

 private:
  std::byte* data_;
  size_t bytes_;
  Release release_;
  bool read_only_;
  std::shared_ptr<const DeviceMemory> memory_;
  uint64_t id_;
};

class RAEDIT_API Tensor {
 public:
  // An empty handle; defined() is false.
  Tensor() = default;
  // A contiguous view of `storage` from `offset_bytes` on. Throws Error(internal) when it does not fit or is
  // misaligned.
  Tensor(std::shared_ptr<Storage> storage, size_t offset_bytes, Shape shape, DType dtype);
  // Any view: one stride per dimension, in elements, 0 or more. Throws Error(internal) when it does not fit or is
  // misaligned.
  static Tensor strided(std::shared_ptr<Storage> storage, size_t offset_bytes, const Shape& shape,
                        std::span<const int64_t> strides, DType dtype);

  // Plain host memory. Inside the engine, activations come from Context::empty instead.
  static Tensor empty(const Shape& shape, DType dtype);
  static Tensor zeros(const Shape& shape, DType dtype);
  static Tensor full(const Shape& shape, float value, DType dtype = DType::float32);
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape);
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from(std::span<const T>(values), shape);
  }

  bool defined() const { return storage_ != nullptr; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  // In elements, not bytes.
  int64_t stride(int i) const;
  int64_t numel() const { return shape_.numel(); }
  size_t nbytes() const { return static_cast<size_t>(numel()) * size_of(dtype_); }
  bool is_contiguous() const;
  // Whether the processor can read it. Tensors of a GPU come here through cpu() or any of the copies below.
  bool on_host() const { return storage_ == nullptr || storage_->memory() == nullptr; }
  const std::shared_ptr<Storage>& storage() const { return storage_; }
  size_t offset_bytes() const { return offset_bytes_; }

  // First element; null for a tensor that is not defined. A device's address where on_host() is false.
  std::byte* raw() const { return storage_ == nullptr ? nullptr : storage_->data() + offset_bytes_; }
  // First element. Throws Error(internal) when T is not the dtype. A device's address where on_host() is false.
  template <class T>
  T* data() const {
    require_dtype(DTypeOf<T>::value);
    return reinterpret_cast<T*>(raw());
  }

  // Views. reshape needs a contiguous tensor and takes one -1; slice is [begin, end) along a dimension;
  // select drops the dimension; transpose swaps two; expand repeats dimensions of size 1 with stride 0.
  Tensor reshape(const Shape& shape) const;
  Tensor slice(int dim, int64_t begin, int64_t end) const;
  Tensor select(int dim, int64_t index) const;
  Tensor transpose(int dim0, int dim1) const;
  Tensor expand(const Shape& shape) const;
  // The view that `this` is of its storage, taken of another storage with `dtype` elements at the same positions.
  Tensor same_view_of(std::shared_ptr<Storage> storage, DType dtype) const;

  // The tensor itself when it is on the host, else a copy there; waits for the device.
  Tensor cpu() const;
  // Copies, in host memory. contiguous() and to() return the tensor itself when nothing has to change.
  Tensor clone() const;
  Tensor contiguous() const;
  Tensor to(DType dtype) const;
  void copy_from(const Tensor& source) const;  // same shape, any strides, dtypes and memories
  // All elements in row-major order, converted.
  template <class T>
  std::vector<T> to_vector() const;
  // The only element of a tensor with one element.
  double item() const;

 private:
  void require_dtype(DType dtype) const;

  std::shared_ptr<Storage> storage_;
  size_t offset_bytes_ = 0;
  Shape shape_;
  std::array<int64_t, Shape::kMaxRank> strides_{};
  DType dtype_ = DType::float32;
};

}  // namespace raedit
