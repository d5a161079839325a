// How a product is cut for the threads of a team: blocks of rows by groups of 64 columns. Results do not depend on
// where the cuts are.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/gemm.h"

namespace raedit::backend::cpu {

class Partition {
 public:
  struct Item {
    int64_t group, row, rows;
  };

  // Blocks of up to `most_rows` rows, whole tiles but for the last. `weight_bytes`: of the packed matrix.
  Partition(int64_t m, int64_t groups, int64_t tile_rows, int64_t most_rows, int64_t weight_bytes, int threads)
      : m_(m), groups_(groups), rows_first_(weight_bytes <= kSmallWeight) {
    blocks_ = (m + most_rows - 1) / most_rows;
    // They shrink until every thread has a few.
    const int64_t most = (m + tile_rows - 1) / tile_rows;
    while (threads > 1 && groups * blocks_ < 4 * threads && blocks_ < most) ++blocks_;
    block_rows_ = round_up((m + blocks_ - 1) / blocks_, tile_rows);
    blocks_ = (m + block_rows_ - 1) / block_rows_;
  }

  int64_t items() const { return groups_ * blocks_; }
  // Neighbours share what is larger: rows, or columns that are then streamed from memory once.
  Item operator[](int64_t i) const {
    const int64_t row = (rows_first_ ? i / groups_ : i % blocks_) * block_rows_;
    return {rows_first_ ? i % groups_ : i / blocks_, row, std::min(block_rows_, m_ - row)};
  }
  // The group of the item that a thread gets after item i, if all take equally long; -1 where it is this one's, or
  // there is none.
  int64_t next_group(int64_t i, int64_t threads) const {
    const int64_t next = i + threads;
    if (next >= items()) return -1;
    const int64_t group = (*this)[next].group;
    return group == (*this)[i].group ? -1 : group;
  }

 private:
  static constexpr int64_t kSmallWeight = int64_t{1} << 21;  // stays in a cache

  int64_t m_, groups_, blocks_ = 0, block_rows_ = 0;
  bool rows_first_;
};

}  // namespace raedit::backend::cpu
