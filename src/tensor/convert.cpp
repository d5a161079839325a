#include "tensor/convert.h"

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tensor/visit.h"

namespace raedit {

namespace {

// A file may hold any byte where a bool belongs; only as a byte may it be looked at.
template <class T>
T load(const T* at) {
  if constexpr (std::is_same_v<T, bool>)
    return *reinterpret_cast<const uint8_t*>(at) != 0;
  else
    return *at;
}

template <class To, class From>
void convert_typed(const From* source, int64_t source_stride, To* target, int64_t target_stride, int64_t count) {
  if (source_stride == 1 && target_stride == 1) {  // a loop of its own, so that it vectorises
    for (int64_t i = 0; i < count; ++i) target[i] = convert_element<To>(load(source + i));
    return;
  }
  for (int64_t i = 0; i < count; ++i) target[i * target_stride] = convert_element<To>(load(source + i * source_stride));
}

// Same type: only the size matters.
void copy_row(size_t size, const std::byte* source, int64_t source_stride, std::byte* target, int64_t target_stride,
              int64_t count) {
  if (source_stride == 1 && target_stride == 1) {
    std::memmove(target, source, static_cast<size_t>(count) * size);
    return;
  }
  const auto copy = [&](auto zero) {
    using T = decltype(zero);
    convert_typed(reinterpret_cast<const T*>(source), source_stride, reinterpret_cast<T*>(target), target_stride,
                  count);
  };
  if (size == 8) copy(uint64_t{0});
  if (size == 4) copy(uint32_t{0});
  if (size == 2) copy(uint16_t{0});
  if (size == 1) copy(uint8_t{0});
}

}  // namespace

void convert_row(DType from, const std::byte* source, int64_t source_stride, DType to, std::byte* target,
                 int64_t target_stride, int64_t count) {
  if (from == to) {
    copy_row(size_of(from), source, source_stride, target, target_stride, count);
    return;
  }
  visit_dtype(from, [&](auto from_tag) {
    using From = typename decltype(from_tag)::type;
    visit_dtype(to, [&](auto to_tag) {
      using To = typename decltype(to_tag)::type;
      convert_typed(reinterpret_cast<const From*>(source), source_stride, reinterpret_cast<To*>(target), target_stride,
                    count);
    });
  });
}

}  // namespace raedit
