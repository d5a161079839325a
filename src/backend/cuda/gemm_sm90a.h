// out = epilogue(x * w^T) for bfloat16 on Hopper (sm_90a: TMA, mbarrier pipelines, warp-specialised wgmma), with what
// follows the product in a transformer block done before it is stored. Numbers are bfloat16, sums are float32.
//
// Bits: an output element is one chain of sums over k in steps of 16 from k = 0, whatever the tile. So all
// configurations give the same bits for a row, whatever M is and wherever the row stands.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <span>

namespace raedit::backend::cuda::sm90a {

enum class Epilogue {
  bias,            // out = x w^T + bias
  gelu,            // out = gelu(x w^T + bias), the exact one (erf)
  swiglu,          // out = (x w^T + bias) * silu(x w_gate^T + bias_gate)
  gated_residual,  // out = residual + gate * (x w^T + bias)
};

// All pointers on the device. x, w, w_gate and their row strides must be multiples of 16 bytes; the others may have any
// alignment (16 bytes are faster). out may be residual; it must not be anything else that is read.
struct Problem {
  Epilogue epilogue = Epilogue::bias;
  int64_t m = 0;  // rows of x and out
  int64_t n = 0;  // columns of out
  int64_t k = 0;
  const void* x = nullptr;       // [m,k]
  int64_t ldx = 0;               // elements from row to row
  const void* w = nullptr;       // [n,k]; its memory holds w_rows >= n rounded up to 32 rows, of any contents after n
  const void* w_gate = nullptr;  // swiglu: the like
  int64_t ldw = 0;
  int64_t w_rows = 0;
  bool w_shuffled = false;           // the rows were stored in the order of shuffled_row()
  const float* bias = nullptr;       // [n] or null
  const float* bias_gate = nullptr;  // swiglu: [n] or null
  void* out = nullptr;               // [m,n]
  int64_t ldo = 0;
  const void* residual = nullptr;  // [m,n]
  int64_t ldr = 0;
  const void* gate = nullptr;  // row r reads gate + (r / tokens) * gate_batch + (r % tokens) * gate_row
  int64_t gate_batch = 0;
  int64_t gate_row = 0;
  int64_t tokens = 1;
  // Programmatic dependent launch: weights are read before the kernel before this one in the stream has ended. Only
  // where that kernel writes none of w and w_gate.
  bool overlap = false;
};

// One compiled kernel.
struct Config {
  const char* name;
  int tile_m;  // rows of x per block
  int tile_n;  // rows of w (and w_gate) per block
  int stages;
  int multicast;    // blocks that share what they read of w, one above the other
  int across;       // blocks that share what they read of x, side by side
  bool persistent;  // one block per multiprocessor (many rows), else one per tile (few rows)
};

std::span<const Config> configs();

// Whether run() can: the device is a Hopper, the pointers and strides are as said above. Everything else about a
// problem is a mistake of the caller's.
bool supported(const Problem& problem);

// The row of w that stands at `row` in a shuffled matrix: two fields of two bits change places, so it is its own
// inverse.
constexpr int64_t shuffled_row(int64_t row) {
  return (row & ~int64_t{31}) | (row >> 3 & 3) << 1 | (row >> 1 & 3) << 3 | (row & 1);
}

// Puts one kernel on the stream; nothing else, so it may be captured.
cudaError_t run(cudaStream_t stream, const Problem& problem, const Config& config);

}  // namespace raedit::backend::cuda::sm90a
