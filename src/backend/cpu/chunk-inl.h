// Rows in chunks of float32: converted into a buffer on the way in where they are something else, and back on the way
// out. Once per Highway target, after simd_math-inl.h.

#if defined(RAEDIT_BACKEND_CPU_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RAEDIT_BACKEND_CPU_CHUNK_INL_H_
#undef RAEDIT_BACKEND_CPU_CHUNK_INL_H_
#else
#define RAEDIT_BACKEND_CPU_CHUNK_INL_H_
#endif

#include <algorithm>
#include <type_traits>

#include "backend/cpu/rows.h"
#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

// Elements [first, first + n) of the row, n <= kChunk: where they are, or converted into `buffer`.
inline const float* stage(const Row& row, int64_t first, size_t n, float* buffer) {
  const auto gather = [&](const auto* data) {
    if (row.stride == 0) {
      std::fill_n(buffer, n, static_cast<float>(*data));
    } else {
      for (size_t i = 0; i < n; ++i)
        buffer[i] = static_cast<float>(data[(first + static_cast<int64_t>(i)) * row.stride]);
    }
  };
  if (row.dtype == DType::float32) {
    const auto* data = reinterpret_cast<const float*>(row.data);
    if (row.stride == 1) return data + first;
    gather(data);
  } else {
    const auto* data = reinterpret_cast<const bfloat16*>(row.data);
    if (row.stride == 1) {
      map(
          n, buffer, [](FloatVec v) { return v; }, data + first);
    } else {
      gather(data);
    }
  }
  return buffer;
}

// Where to compute the chunk so that unstage() has least to do.
HWY_INLINE float* staged_output(const Row& row, int64_t first, float* buffer) {
  return row.dtype == DType::float32 && row.stride == 1 ? reinterpret_cast<float*>(row.data) + first : buffer;
}

inline void unstage(const Row& row, int64_t first, size_t n, const float* values) {
  const auto scatter = [&](auto* data) {
    using T = std::remove_pointer_t<decltype(data)>;
    for (size_t i = 0; i < n; ++i) data[(first + static_cast<int64_t>(i)) * row.stride] = T(values[i]);
  };
  if (row.dtype == DType::float32) {
    if (row.stride != 1) scatter(reinterpret_cast<float*>(row.data));
  } else {
    auto* data = reinterpret_cast<bfloat16*>(row.data);
    if (row.stride == 1) {
      map(
          n, data + first, [](FloatVec v) { return v; }, values);
    } else {
      scatter(data);
    }
  }
}

// target[i] += values[i]
inline void add_to(const Row& target, int64_t first, size_t n, const float* values) {
  auto* data = reinterpret_cast<float*>(target.data);
  if (target.stride == 1) {
    map(
        n, data + first, [](FloatVec a, FloatVec b) { return hn::Add(a, b); }, data + first, values);
  } else {
    for (size_t i = 0; i < n; ++i) data[(first + static_cast<int64_t>(i)) * target.stride] += values[i];
  }
}

// Sum of f(a[i], ...) over a chunk. The order is fixed by n and the number of lanes.
template <class F, class... I>
HWY_INLINE float sum_of(size_t n, F f, const I*... in) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d);
  auto sum1 = hn::Zero(d);
  size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    sum0 = hn::Add(sum0, f(load(in + i)...));
    sum1 = hn::Add(sum1, f(load(in + i + lanes)...));
  }
  for (; i + lanes <= n; i += lanes) sum0 = hn::Add(sum0, f(load(in + i)...));
  if (i < n) sum1 = hn::Add(sum1, hn::IfThenElseZero(hn::FirstN(d, n - i), f(load_n(in + i, n - i)...)));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
