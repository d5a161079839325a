// Views and copies. Nothing here is on the path of a sampling step: the kernels of backend/ are.
#include "raedit/tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>

#include "core/check.h"
#include "tensor/convert.h"
#include "tensor/memory.h"
#include "tensor/visit.h"

namespace raedit {

namespace {

using Strides = std::array<int64_t, Shape::kMaxRank>;

Strides contiguous_strides(const Shape& shape) {
  Strides strides{};
  int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[static_cast<size_t>(i)] = stride;
    stride *= std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

// numel() and the byte count fit into 64 bits.
size_t checked_bytes(const Shape& shape, DType dtype) {
  const auto count = static_cast<uint64_t>(shape.numel());
  const size_t size = size_of(dtype);
  RAEDIT_CHECK(count <= static_cast<uint64_t>(INT64_MAX) / size,
               {.code = ErrorCode::invalid_argument, .what = "tensor is too large", .found = shape.str()});
  return count * size;
}

int checked_dim(int dim, const Shape& shape) {
  const int index = dim < 0 ? dim + shape.rank() : dim;
  RAEDIT_CHECK(index >= 0 && index < shape.rank(), {.code = ErrorCode::invalid_argument,
                                                    .what = fmt::format("no dimension {}", dim),
                                                    .found = "shape " + shape.str()});
  return index;
}

void require_defined(const std::shared_ptr<Storage>& storage) {
  RAEDIT_CHECK(storage != nullptr, {.code = ErrorCode::internal, .what = "tensor is empty (never assigned)"});
}

}  // namespace

Tensor::Tensor(std::shared_ptr<Storage> storage, size_t offset_bytes, Shape shape, DType dtype)
    : storage_(std::move(storage)), offset_bytes_(offset_bytes), shape_(shape), dtype_(dtype) {
  require_defined(storage_);
  const size_t bytes = checked_bytes(shape_, dtype_);
  RAEDIT_CHECK(offset_bytes_ <= storage_->bytes() && bytes <= storage_->bytes() - offset_bytes_,
               {.code = ErrorCode::internal,
                .what = fmt::format("tensor {} {} does not fit into its storage", name_of(dtype_), shape_.str()),
                .found = fmt::format("{} bytes at offset {} of {}", bytes, offset_bytes_, storage_->bytes())});
  RAEDIT_CHECK(bytes == 0 || reinterpret_cast<uintptr_t>(raw()) % size_of(dtype_) == 0,
               {.code = ErrorCode::internal,
                .what = fmt::format("tensor of {} is misaligned", name_of(dtype_)),
                .found = fmt::format("offset {}", offset_bytes_)});
  strides_ = contiguous_strides(shape_);
}

Tensor Tensor::strided(std::shared_ptr<Storage> storage, size_t offset_bytes, const Shape& shape,
                       std::span<const int64_t> strides, DType dtype) {
  require_defined(storage);
  checked_bytes(shape, dtype);
  bool fits = strides.size() == static_cast<size_t>(shape.rank());
  int64_t elements = shape.numel() == 0 ? 0 : 1;  // from the first to the last
  for (int i = 0; fits && i < shape.rank(); ++i) {
    int64_t reach = 0;
    fits = strides[static_cast<size_t>(i)] >= 0;
    if (elements == 0) continue;
    fits = fits && !__builtin_mul_overflow(shape[i] - 1, strides[static_cast<size_t>(i)], &reach) &&
           !__builtin_add_overflow(elements, reach, &elements);
  }
  const size_t room = offset_bytes <= storage->bytes() ? (storage->bytes() - offset_bytes) / size_of(dtype) : 0;
  fits = fits && offset_bytes <= storage->bytes() && static_cast<uint64_t>(elements) <= room;
  RAEDIT_CHECK(fits, {.code = ErrorCode::internal,
                      .what = fmt::format("view {} of {} with strides [{}] does not fit into its storage", shape.str(),
                                          name_of(dtype), fmt::join(strides, ", ")),
                      .found = fmt::format("{} bytes from offset {} on", storage->bytes(), offset_bytes)});
  Tensor view(std::move(storage), offset_bytes, Shape{0}, dtype);
  view.shape_ = shape;
  std::copy(strides.begin(), strides.end(), view.strides_.begin());
  RAEDIT_CHECK(elements == 0 || reinterpret_cast<uintptr_t>(view.raw()) % size_of(dtype) == 0,
               {.code = ErrorCode::internal,
                .what = fmt::format("tensor of {} is misaligned", name_of(dtype)),
                .found = fmt::format("offset {}", offset_bytes)});
  if (view.is_contiguous()) view.strides_ = contiguous_strides(shape);
  return view;
}

Tensor Tensor::empty(const Shape& shape, DType dtype) {
  return Tensor(Storage::allocate(checked_bytes(shape, dtype)), 0, shape, dtype);
}

Tensor Tensor::zeros(const Shape& shape, DType dtype) {
  Tensor result = empty(shape, dtype);
  std::fill_n(result.raw(), result.nbytes(), std::byte{0});
  return result;
}

Tensor Tensor::full(const Shape& shape, float value, DType dtype) {
  Tensor result = empty(shape, dtype);
  visit_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::fill_n(reinterpret_cast<T*>(result.raw()), result.numel(), convert_element<T>(value));
  });
  return result;
}

template <class T>
Tensor Tensor::from(std::span<const T> values, const Shape& shape) {
  RAEDIT_CHECK(static_cast<int64_t>(values.size()) == shape.numel(),
               {.code = ErrorCode::invalid_argument,
                .what = "values do not fill the shape",
                .found = fmt::to_string(values.size()),
                .expected = fmt::format("{} for {}", shape.numel(), shape.str())});
  Tensor result = empty(shape, DTypeOf<T>::value);
  std::copy(values.begin(), values.end(), reinterpret_cast<T*>(result.raw()));
  return result;
}

void Tensor::require_dtype(DType dtype) const {
  require_defined(storage_);
  RAEDIT_CHECK(dtype == dtype_, {.code = ErrorCode::internal,
                                 .what = "tensor has another element type",
                                 .found = std::string(name_of(dtype_)),
                                 .expected = std::string(name_of(dtype))});
}

int64_t Tensor::stride(int i) const {
  return strides_[static_cast<size_t>(checked_dim(i, shape_))];
}

bool Tensor::is_contiguous() const {
  if (numel() == 0) return true;
  int64_t expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (dim(i) != 1 && strides_[static_cast<size_t>(i)] != expected) return false;
    expected *= dim(i);
  }
  return true;
}

Tensor Tensor::reshape(const Shape& shape) const {
  require_defined(storage_);
  RAEDIT_CHECK(is_contiguous(), {.code = ErrorCode::invalid_argument,
                                 .what = "reshape needs a contiguous tensor",
                                 .found = fmt::format("a strided view of {}", shape_.str()),
                                 .hint = "call contiguous() first"});
  Shape target = shape;
  int64_t known = 1;
  int inferred = -1;
  bool possible = true;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] != -1) {
      possible = possible && !__builtin_mul_overflow(known, shape[i], &known);
    } else {
      possible = possible && inferred < 0;
      inferred = i;
    }
  }
  if (possible && inferred >= 0) {
    possible = known != 0 && numel() % known == 0;
    if (possible) target.set(inferred, numel() / known);
  }
  RAEDIT_CHECK(possible && target.numel() == numel(),
               {.code = ErrorCode::invalid_argument,
                .what = fmt::format("cannot reshape {} to {}", shape_.str(), shape.str()),
                .hint = "the number of elements must stay the same; one dimension may be -1"});
  Tensor view = *this;
  view.shape_ = target;
  view.strides_ = contiguous_strides(target);
  return view;
}

Tensor Tensor::slice(int dim, int64_t begin, int64_t end) const {
  require_defined(storage_);
  const int d = checked_dim(dim, shape_);
  RAEDIT_CHECK(0 <= begin && begin <= end && end <= shape_[d],
               {.code = ErrorCode::invalid_argument,
                .what = fmt::format("slice [{}, {}) of dimension {} is out of range", begin, end, dim),
                .found = "shape " + shape_.str()});
  Tensor view = *this;
  view.shape_.set(d, end - begin);
  // An empty view keeps the offset, which could otherwise point past the end.
  if (view.numel() != 0)
    view.offset_bytes_ += static_cast<size_t>(begin * strides_[static_cast<size_t>(d)]) * size_of(dtype_);
  return view;
}

Tensor Tensor::select(int dim, int64_t index) const {
  const int d = checked_dim(dim, shape_);
  RAEDIT_CHECK(0 <= index && index < shape_[d],
               {.code = ErrorCode::invalid_argument,
                .what = fmt::format("index {} of dimension {} is out of range", index, dim),
                .found = "shape " + shape_.str()});
  Tensor view = slice(d, index, index + 1);
  std::vector<int64_t> dims(shape_.begin(), shape_.end());
  dims.erase(dims.begin() + d);
  view.shape_ = Shape(std::span<const int64_t>(dims));
  std::copy(strides_.begin() + d + 1, strides_.end(), view.strides_.begin() + d);
  return view;
}

Tensor Tensor::transpose(int dim0, int dim1) const {
  require_defined(storage_);
  const int a = checked_dim(dim0, shape_), b = checked_dim(dim1, shape_);
  Tensor view = *this;
  view.shape_.set(a, shape_[b]);
  view.shape_.set(b, shape_[a]);
  std::swap(view.strides_[static_cast<size_t>(a)], view.strides_[static_cast<size_t>(b)]);
  return view;
}

Tensor Tensor::expand(const Shape& shape) const {
  require_defined(storage_);
  const int added = shape.rank() - rank();
  bool possible = added >= 0;
  Tensor view = *this;
  view.shape_ = shape;
  view.strides_ = {};
  for (int i = 0; possible && i < rank(); ++i) {
    const bool same = shape[i + added] == dim(i);
    possible = same || (dim(i) == 1 && shape[i + added] >= 0);
    if (same) view.strides_[static_cast<size_t>(i + added)] = strides_[static_cast<size_t>(i)];
  }
  RAEDIT_CHECK(possible && std::find(shape.begin(), shape.end(), -1) == shape.end(),
               {.code = ErrorCode::invalid_argument,
                .what = fmt::format("cannot expand {} to {}", shape_.str(), shape.str()),
                .hint = "only dimensions of size 1 can be repeated, and new ones come first"});
  checked_bytes(shape, dtype_);
  return view;
}

Tensor Tensor::same_view_of(std::shared_ptr<Storage> storage, DType dtype) const {
  require_defined(storage_);
  require_defined(storage);
  Tensor view = *this;
  const size_t first = offset_bytes_ / size_of(dtype_);
  view.storage_ = std::move(storage);
  view.dtype_ = dtype;
  view.offset_bytes_ = first * size_of(dtype);
  size_t end = first;  // one past the last element
  if (numel() > 0) {
    ++end;
    for (int i = 0; i < rank(); ++i) end += static_cast<size_t>((dim(i) - 1) * strides_[static_cast<size_t>(i)]);
  }
  RAEDIT_CHECK(offset_bytes_ % size_of(dtype_) == 0 && end <= view.storage_->bytes() / size_of(dtype),
               {.code = ErrorCode::internal,
                .what = fmt::format("view {} does not fit the other storage", shape_.str()),
                .found = fmt::format("{} bytes", view.storage_->bytes()),
                .expected = fmt::format("{} elements of {}", end, name_of(dtype))});
  return view;
}

Tensor Tensor::clone() const {
  require_defined(storage_);
  Tensor copy = empty(shape_, dtype_);
  copy.copy_from(*this);
  return copy;
}

Tensor Tensor::contiguous() const {
  return is_contiguous() ? *this : clone();
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  require_defined(storage_);
  Tensor copy = empty(shape_, dtype);
  copy.copy_from(*this);
  return copy;
}

namespace {

// One dimension of a copy: neighbours that both sides walk through evenly are merged into one.
struct Axis {
  int64_t size;
  int64_t source_stride;
  int64_t target_stride;
};

std::vector<Axis> merged_axes(const Tensor& source, const Tensor& target) {
  std::vector<Axis> axes;
  for (int i = 0; i < source.rank(); ++i) {
    const Axis axis{source.dim(i), source.stride(i), target.stride(i)};
    if (axis.size == 1) continue;
    Axis* outer = axes.empty() ? nullptr : &axes.back();
    if (outer != nullptr && outer->source_stride == axis.size * axis.source_stride &&
        outer->target_stride == axis.size * axis.target_stride) {
      *outer = {outer->size * axis.size, axis.source_stride, axis.target_stride};
    } else {
      axes.push_back(axis);
    }
  }
  if (axes.empty()) axes.push_back({1, 1, 1});
  return axes;
}

}  // namespace

namespace {

// Bytes from the first to one past the last element.
size_t span_bytes(const Tensor& tensor) {
  int64_t elements = 1;
  for (int i = 0; i < tensor.rank(); ++i) elements += (tensor.dim(i) - 1) * tensor.stride(i);
  return static_cast<size_t>(elements) * size_of(tensor.dtype());
}

// The same view of a host copy of the bytes between its first and last element.
Tensor on_host_copy(const Tensor& tensor) {
  const size_t bytes = span_bytes(tensor);
  auto storage = Storage::allocate(bytes);
  tensor.storage()->memory()->to_host(storage->data(), tensor.raw(), bytes);
  std::vector<int64_t> strides;
  for (int i = 0; i < tensor.rank(); ++i) strides.push_back(tensor.stride(i));
  return Tensor::strided(std::move(storage), 0, tensor.shape(), strides, tensor.dtype());
}

void copy_to_device(const Tensor& source, const Tensor& target) {
  const DeviceMemory& memory = *target.storage()->memory();
  if (target.is_contiguous()) {
    const Tensor values = source.to(target.dtype()).contiguous().cpu();
    return memory.from_host(target.raw(), values.raw(), values.nbytes());
  }
  const Tensor around = on_host_copy(target);
  around.copy_from(source);
  memory.from_host(target.raw(), around.raw(), span_bytes(target));
}

}  // namespace

Tensor Tensor::cpu() const {
  if (on_host()) return *this;
  if (numel() == 0) return empty(shape_, dtype_);
  return on_host_copy(*this);
}

void Tensor::copy_from(const Tensor& source) const {
  require_defined(storage_);
  require_defined(source.storage_);
  RAEDIT_CHECK(source.shape_ == shape_, {.code = ErrorCode::invalid_argument,
                                         .what = "copy between different shapes",
                                         .found = source.shape_.str(),
                                         .expected = shape_.str()});
  RAEDIT_CHECK(!storage_->read_only(), {.code = ErrorCode::internal, .what = "write to a read-only tensor"});
  if (numel() == 0) return;
  if (!on_host()) return copy_to_device(source, *this);
  if (!source.on_host()) return copy_from(source.cpu());
  std::vector<Axis> axes = merged_axes(source, *this);
  const Axis row = axes.back();
  axes.pop_back();
  const auto source_size = static_cast<int64_t>(size_of(source.dtype_));
  const auto target_size = static_cast<int64_t>(size_of(dtype_));
  std::array<int64_t, Shape::kMaxRank> index{};
  const std::byte* from = source.raw();
  std::byte* to = raw();
  while (true) {
    convert_row(source.dtype_, from, row.source_stride, dtype_, to, row.target_stride, row.size);
    size_t i = axes.size();
    for (; i > 0; --i) {  // the odometer: step the last axis that is not at its end, rewind those behind it
      const Axis& axis = axes[i - 1];
      from += axis.source_stride * source_size;
      to += axis.target_stride * target_size;
      if (++index[i - 1] < axis.size) break;
      index[i - 1] = 0;
      from -= axis.size * axis.source_stride * source_size;
      to -= axis.size * axis.target_stride * target_size;
    }
    if (i == 0) return;
  }
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  require_defined(storage_);
  const Tensor values = cpu().to(DTypeOf<T>::value).contiguous();
  // Any byte may stand where a bool belongs; only as a byte may it be looked at.
  using Stored = std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>;
  const auto* first = reinterpret_cast<const Stored*>(values.raw());
  return std::vector<T>(first, first + values.numel());
}

double Tensor::item() const {
  RAEDIT_CHECK(defined() && numel() == 1, {.code = ErrorCode::invalid_argument,
                                           .what = "item() needs a tensor with one element",
                                           .found = "shape " + shape_.str()});
  return to_vector<double>()[0];
}

#define RAEDIT_INSTANTIATE(T)                                                          \
  template RAEDIT_API Tensor Tensor::from<T>(std::span<const T> values, const Shape&); \
  template RAEDIT_API std::vector<T> Tensor::to_vector<T>() const;
RAEDIT_INSTANTIATE(double)
RAEDIT_INSTANTIATE(float)
RAEDIT_INSTANTIATE(float16)
RAEDIT_INSTANTIATE(bfloat16)
RAEDIT_INSTANTIATE(float8_e4m3fn)
RAEDIT_INSTANTIATE(float8_e5m2)
RAEDIT_INSTANTIATE(int64_t)
RAEDIT_INSTANTIATE(int32_t)
RAEDIT_INSTANTIATE(int16_t)
RAEDIT_INSTANTIATE(int8_t)
RAEDIT_INSTANTIATE(uint64_t)
RAEDIT_INSTANTIATE(uint32_t)
RAEDIT_INSTANTIATE(uint16_t)
RAEDIT_INSTANTIATE(uint8_t)
RAEDIT_INSTANTIATE(bool)
#undef RAEDIT_INSTANTIATE

}  // namespace raedit
