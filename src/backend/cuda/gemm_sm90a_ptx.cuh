// The instructions of Hopper that the compiler has no names for: barriers in shared memory that count bytes, the copy
// engine, clusters, programmatic launches, and products of a warpgroup. Addresses are in the shared window (32 bits).
// Source: PTX ISA 8.x, chapters mbarrier, cp.async.bulk.tensor, barrier.cluster, griddepcontrol, wgmma.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace raedit::backend::cuda::sm90a {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ inline void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ inline void barrier_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
#ifdef RAEDIT_GEMM_WATCHDOG
  int tries = 0;
#endif
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
#ifdef RAEDIT_GEMM_WATCHDOG
    if (++tries > 4000000) __trap();  // each try waits a while by itself
#endif
  } while (done == 0);
}

__device__ inline void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// The same place in the shared memory of another block of the cluster.
__device__ inline uint32_t shared_address_of(uint32_t address, int rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

__device__ inline void barrier_arrive_at(uint32_t barrier, int rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(shared_address_of(barrier, rank)) : "memory");
}

__device__ inline int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// Every thread of the cluster is here; orders nothing but barriers that were initialised and fenced.
__device__ inline void cluster_meet() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ inline void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ inline void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ inline void wait_for_former_kernels() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
__device__ inline void let_next_kernel_start() {
  asm volatile("griddepcontrol.launch_dependents;");
}

__device__ inline void load_2d(uint32_t to, const CUtensorMap* map, int c0, int c1, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "l"(policy)
      : "memory");
}

__device__ inline void load_2d_for_all(uint32_t to, const CUtensorMap* map, int c0, int c1, uint32_t barrier,
                                       uint64_t policy, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "h"(blocks), "l"(policy)
      : "memory");
}

// Maps of five dimensions (k, and the row in four): row is a place in shared memory's order, see encode_shuffling.
__device__ inline void load_5d(uint32_t to, const CUtensorMap* map, int c0, int row, uint32_t barrier,
                               uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %5, %5, %7, %4}], [%2], %6;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(c0), "r"(row / 32), "r"(0), "l"(policy), "r"(row / 8 % 4)
      : "memory");
}

__device__ inline void load_5d_for_all(uint32_t to, const CUtensorMap* map, int c0, int row, uint32_t barrier,
                                       uint64_t policy, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint"
      " [%0], [%1, {%3, %5, %5, %8, %4}], [%2], %6, %7;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(c0), "r"(row / 32), "r"(0), "h"(blocks), "l"(policy), "r"(row / 8 % 4)
      : "memory");
}

__device__ inline void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Asks for a box of w to be brought into the second-level cache.
__device__ inline void prefetch_2d(const CUtensorMap* map, int c0, int c1) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(map), "r"(c0), "r"(c1));
}

__device__ inline void prefetch_5d(const CUtensorMap* map, int c0, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.5d.L2.global.tile [%0, {%1, %3, %3, %4, %2}];" ::"l"(map), "r"(c0),
               "r"(row / 32), "r"(0), "r"(row / 8 % 4));
}

// Rows of 128 bytes, swizzled in groups of 8 rows (1024 bytes apart), k contiguous: layout 1 (128B) in bits 62-63, the
// stride of the groups in bits 32-45, both in units of 16 bytes like the address. Addresses are multiples of 1024.
__device__ inline uint64_t matrix_at(uint32_t address) {
  return uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 16 | (address & 0x3FFFF) >> 4;
}

__device__ inline void multiply_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void multiply_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ inline void multiply_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// clang-format off
#define REGS_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9"
#define REGS(t) ", %" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9"
#define SUMS_8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
                  "+f"(d[i + 6]), "+f"(d[i + 7])
#define SUMS_32(i) SUMS_8(i), SUMS_8(i + 8), SUMS_8(i + 16), SUMS_8(i + 24)
#define WGMMA(n, regs, a, b, add, ...)                                                                       \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #add ", 0;\n"                                            \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" regs "}, %" #a ", %" #b          \
               ", p, 1, 1, 0, 0;\n}\n"                                                                       \
               : __VA_ARGS__                                                                                 \
               : "l"(a_matrix), "l"(b_matrix), "r"(accumulate))
// d[64,N] (+)= a[64,16] * b[N,16]^T
__device__ inline void multiply(float (&d)[32], uint64_t a_matrix, uint64_t b_matrix, int accumulate) {
  WGMMA(64, REGS_0 REGS(1) REGS(2) ", %30, %31", 32, 33, 34, SUMS_32(0));
}
__device__ inline void multiply(float (&d)[64], uint64_t a_matrix, uint64_t b_matrix, int accumulate) {
  WGMMA(128, REGS_0 REGS(1) REGS(2) REGS(3) REGS(4) REGS(5) ", %60, %61, %62, %63", 64, 65, 66,
        SUMS_32(0), SUMS_32(32));
}
__device__ inline void multiply(float (&d)[96], uint64_t a_matrix, uint64_t b_matrix, int accumulate) {
  WGMMA(192, REGS_0 REGS(1) REGS(2) REGS(3) REGS(4) REGS(5) REGS(6) REGS(7) REGS(8)
        ", %90, %91, %92, %93, %94, %95", 96, 97, 98, SUMS_32(0), SUMS_32(32), SUMS_32(64));
}
__device__ inline void multiply(float (&d)[128], uint64_t a_matrix, uint64_t b_matrix, int accumulate) {
  WGMMA(256, REGS_0 REGS(1) REGS(2) REGS(3) REGS(4) REGS(5) REGS(6) REGS(7) REGS(8) REGS(9) REGS(10) REGS(11)
        ", %120, %121, %122, %123, %124, %125, %126, %127", 128, 129, 130,
        SUMS_32(0), SUMS_32(32), SUMS_32(64), SUMS_32(96));
}
#undef REGS_0
#undef REGS
#undef SUMS_8
#undef SUMS_32
#undef WGMMA
// clang-format on

}  // namespace raedit::backend::cuda::sm90a
