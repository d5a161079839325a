// A row of a gradient that a kernel writes or adds to, and sums over runs of rows that are added up in a fixed order.
#pragma once

#include "backend/cpu/rows.h"
#include "backend/kernels.h"

namespace raedit::backend::cpu {

struct TargetRow {
  std::byte* data = nullptr;
  DType dtype = DType::float32;
  bool add = false;  // to what is there, which is float32
};

// Rows whose contributions to one place are summed before they are added to it: keeps long sums accurate, and is the
// unit of work whatever the number of threads.
inline constexpr int64_t kRunOfRows = 64;

// Tokens of [B,N,D], cut into runs that lie in one picture each.
struct Runs {
  int64_t batch, tokens, per_picture;

  Runs(int64_t b, int64_t n) : batch(b), tokens(n), per_picture((n + kRunOfRows - 1) / kRunOfRows) {}
  int64_t count() const { return batch * per_picture; }
  int64_t picture(int64_t run) const { return run / per_picture; }
  int64_t first(int64_t run) const { return run % per_picture * kRunOfRows; }
  int64_t end(int64_t run) const { return std::min(tokens, first(run) + kRunOfRows); }
};

}  // namespace raedit::backend::cpu
