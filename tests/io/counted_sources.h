// Sources of tensors that count how many were asked for, and how many of them were in memory at a time.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "io/tensor_source.h"

namespace raedit::test {

struct CountedSources {
  int alive = 0, most = 0, made = 0;
  std::vector<TensorSource> sources;  // t0, t1, ...: 1000 times their number

  explicit CountedSources(int count) {
    for (int i = 0; i < count; ++i)
      sources.push_back({fmt::format("t{}", i), DType::uint8, {1000}, [this, i] { return make(i); }});
  }
  CountedSources(const CountedSources&) = delete;
  CountedSources& operator=(const CountedSources&) = delete;

 private:
  Tensor make(int i) {
    most = std::max(most, ++alive);
    ++made;
    auto* bytes = new std::byte[1000];
    std::fill(bytes, bytes + 1000, static_cast<std::byte>(i));
    const auto release = [this](std::byte* data, size_t) {
      delete[] data;
      --alive;
    };
    return Tensor(std::make_shared<Storage>(bytes, 1000, release), 0, {1000}, DType::uint8);
  }
};

}  // namespace raedit::test
