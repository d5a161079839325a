// Formulas of the way back: p = softmax(s), o = p v:  dv = p^T do,  dp = do v^T,  ds = p * (dp - sum_j dp_j p_j),
// dq = ds k * scale,  dk = ds^T q * scale. Scores are computed anew, a block of queries at a time (Dao et al.,
// FlashAttention, arXiv 2205.14135, with whole rows of scores).
#include "backend/cpu/attention_dot.h"

#include <omp.h>

#include <algorithm>

#include "backend/cpu/amx.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention_dot.cpp"
// After targets.h: foreach_target includes this file again for each instruction set.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "backend/cpu/gemm_tile-inl.h"
#include "backend/cpu/simd_math-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace raedit::backend::cpu {
namespace HWY_NAMESPACE {

// Lanes are summed in a fixed pattern of 16 partial sums, whatever the vector width.
void softmax_row(float* HWY_RESTRICT row, int64_t n, int64_t padded, float scale) {
  const TileTag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  std::fill(row + n, row + padded, row[0]);
  auto largest = hn::LoadU(d, row);
  for (int64_t i = lanes; i < padded; i += lanes) largest = hn::Max(largest, hn::LoadU(d, row + i));
  const auto vscale = hn::Set(d, scale);
  const auto vmax = hn::Mul(hn::MaxOfLanes(d, largest), vscale);
  for (int64_t i = 0; i < padded; i += lanes)
    hn::StoreU(hn::Exp(d, hn::Sub(hn::Mul(hn::LoadU(d, row + i), vscale), vmax)), d, row + i);
  std::fill(row + n, row + padded, 0.0f);
  hn::Vec<TileTag> sums[kVectorsPerPanel];
  for (auto& s : sums) s = hn::Zero(d);
  for (int64_t i = 0; i < padded; i += kPanel)
    for (int v = 0; v < kVectorsPerPanel; ++v) sums[v] = hn::Add(sums[v], hn::LoadU(d, row + i + v * lanes));
  float partial[kPanel];
  for (int v = 0; v < kVectorsPerPanel; ++v) hn::StoreU(sums[v], d, partial + v * lanes);
  float sum = 0.0f;
  for (const float p : partial) sum += p;
  const auto inverse = hn::Set(d, 1.0f / sum);
  for (int64_t i = 0; i < padded; i += lanes) hn::StoreU(hn::Mul(hn::LoadU(d, row + i), inverse), d, row + i);
}

// `padded` is a multiple of 16.
void round_row(const float* row, int64_t padded, uint16_t* to) {
  for (int64_t i = 0; i < padded; i += static_cast<int64_t>(hn::Lanes(FloatTag())))
    hn::StoreU(narrow(load(row + i)), HalfTag(), to + i);
}

void round_values(const float* from, int64_t count, bfloat16* to) {
  map(
      static_cast<size_t>(count), to, [](FloatVec v) { return v; }, from);
}

HWY_INLINE hn::Vec<hn::Rebind<uint32_t, FloatTag>> bits_of(FloatVec v) {
  return hn::PromoteTo(hn::Rebind<uint32_t, FloatTag>(), narrow(v));
}

// Rows of probabilities p and of their gradients dp, `padded` apart, become ds: pairs of rows interleaved, p too, and
// rows of ds. The second row of a pair may be missing.
void score_gradients(const float* p, const float* dp, int64_t rows, int64_t padded, float scale, PairLayout layout,
                     uint16_t* p_pairs, uint16_t* ds_pairs, uint16_t* ds_rows) {
  const FloatTag d;
  const hn::Rebind<uint32_t, FloatTag> du;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto vscale = hn::Set(d, scale);
  for (int64_t i = 0; i < rows; i += 2) {
    const bool both = i + 1 < rows;
    const int64_t upper = i * padded, lower = both ? upper + padded : upper;
    auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
    for (int64_t j = 0; j < padded; j += lanes) {
      sum0 = hn::MulAdd(load(p + upper + j), load(dp + upper + j), sum0);
      sum1 = hn::MulAdd(load(p + lower + j), load(dp + lower + j), sum1);
    }
    const auto mean0 = hn::SumOfLanes(d, sum0), mean1 = hn::SumOfLanes(d, sum1);
    for (int64_t key = 0; key < padded; key += kPanel) {
      const int64_t to = i / 2 * layout.pair + key / kPanel * layout.panel;
      for (int64_t j = key; j < key + kPanel; j += lanes) {
        const int64_t pair = to + 2 * (j - key);
        const auto p0 = load(p + upper + j), p1 = both ? load(p + lower + j) : hn::Zero(d);
        const auto ds0 = hn::Mul(hn::Mul(p0, vscale), hn::Sub(load(dp + upper + j), mean0));
        const auto ds1 = hn::Mul(hn::Mul(p1, vscale), hn::Sub(load(dp + lower + j), mean1));
        hn::StoreU(hn::Or(bits_of(p0), hn::ShiftLeft<16>(bits_of(p1))), du,
                   reinterpret_cast<uint32_t*>(p_pairs + pair));
        const auto bits0 = narrow(ds0), bits1 = narrow(ds1);
        hn::StoreU(hn::Or(hn::PromoteTo(du, bits0), hn::ShiftLeft<16>(hn::PromoteTo(du, bits1))), du,
                   reinterpret_cast<uint32_t*>(ds_pairs + pair));
        hn::StoreU(bits0, HalfTag(), ds_rows + upper + j);
        if (both) hn::StoreU(bits1, HalfTag(), ds_rows + lower + j);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace raedit::backend::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace raedit::backend::cpu {

HWY_EXPORT(softmax_row);
HWY_EXPORT(round_row);
HWY_EXPORT(round_values);
HWY_EXPORT(score_gradients);

void softmax_row(float* row, int64_t n, int64_t padded, float scale) {
  HWY_DYNAMIC_DISPATCH(softmax_row)(row, n, padded, scale);
}

bool fits_dot_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  for (const Tensor* t : {&q, &k, &v})
    if (t->dtype() != DType::bfloat16 || t->stride(3) != 1) return false;
  return q.dim(3) % 2 == 0 && has_avx512_bf16();
}

namespace {

constexpr int64_t kPanelsOfTile = kTileColumns / kPanel;

// The rows of one head.
struct HeadRows {
  const uint16_t* data;
  int64_t stride;

  HeadRows(const Tensor& t, int64_t b, int64_t h)
      : data(reinterpret_cast<const uint16_t*>(t.data<bfloat16>()) + b * t.stride(0) + h * t.stride(2)),
        stride(t.stride(1)) {}
  const uint16_t* row(int64_t i) const { return data + i * stride; }
  PairRows pairs() const { return {data, DType::bfloat16, stride}; }
};

// Where a thread's buffers are in its piece of one allocation.
class Carver {
 public:
  explicit Carver(std::byte* base = nullptr) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return reinterpret_cast<T*>(at);
  }
  int64_t used() const { return used_; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
};

// One buffer set for each thread; T(carver, sizes...) takes what it needs.
template <class T, class... Sizes>
std::vector<T> for_threads(std::shared_ptr<Storage>& memory, Arena& arena, int threads, Sizes... sizes) {
  Carver measure;
  T(measure, sizes...);
  memory = arena.allocate(static_cast<size_t>(measure.used() * threads));
  std::vector<T> all;
  for (int t = 0; t < threads; ++t) {
    Carver carver(memory->data() + t * measure.used());
    all.push_back(T(carver, sizes...));
  }
  return all;
}

// c[rows][columns] (+)= a[rows][k] * panels; columns are written up to a whole panel.
struct HeadProduct {
  int64_t rows, columns;
  const uint16_t* a;
  int64_t lda;
  const uint16_t* panels;
  int64_t panel_stride, k;
  float* c;
  int64_t ldc;
  bool scores = false;  // a is pairs of queries; rows are keys, k is queries
  bool accumulate = false;
};

// How a head is multiplied: kRows rows at a time, kKeys where they are keys, and sums over queries take kQueries in one
// step, which must all be there. layout() is that of pairs for scores[block][padded].
struct DotWay {
  static constexpr bool kAmx = false;
  static constexpr int64_t kRows = kTileRows, kKeys = kTileRows, kQueries = 2;

  static PairLayout layout(int64_t padded, int64_t /*block*/) { return {2 * padded, 2 * kPanel, 2 * padded}; }

  static void multiply(const HeadProduct& p) {
    const int64_t panels = (p.columns + kPanel - 1) / kPanel;
    for (int64_t first = 0; first < panels; first += kPanelsOfTile)
      tile_bf16_dot({p.rows, std::min(kPanelsOfTile, panels - first), p.a, p.lda, p.scores,
                     p.panels + first * p.panel_stride, p.panel_stride, (p.k + 1) / 2, p.c + first * kPanel, p.ldc,
                     p.accumulate});
  }
};

// Inside of AmxTiles.
struct AmxWay {
  static constexpr bool kAmx = true;
  static constexpr int64_t kRows = 32, kKeys = 512, kQueries = 32;

  // Of tiles one after another, for transpose_tile().
  static PairLayout layout(int64_t /*padded*/, int64_t block) { return {2 * kPanel, block * kPanel, block * kPanel}; }

  static void multiply(const HeadProduct& p) {
    amx_product(AmxProduct<uint16_t>{p.rows, (p.columns + kPanel - 1) / kPanel, p.a, p.lda, p.panels, p.panel_stride,
                                     p.k, p.c, p.ldc, p.accumulate, p.scores});
  }
};

void pack_columns(const HeadRows& from, int64_t rows, int64_t width, uint16_t* to) {
  for (int64_t j = 0; j < rows; j += kPanel)
    pack_column_pairs(from.row(j), from.stride, std::min(kPanel, rows - j), width, to + j * width);
}

// Probabilities are rounded to bfloat16 for their product with the values.
template <class Way>
struct Forward {
  int64_t nk, dh, padded, value_stride;
  uint16_t *keys, *values, *probabilities;
  float *scores, *sums;

  Forward(Carver& c, int64_t key_count, int64_t width)
      : nk(key_count),
        dh(width),
        padded(round_up(key_count, kPanel)),
        value_stride(round_up(key_count, 2) * kPanel),
        keys(c.take<uint16_t>(padded * dh)),
        values(c.take<uint16_t>(round_up(dh, kPanel) / kPanel * value_stride)),
        probabilities(c.take<uint16_t>(Way::kRows * padded)),
        scores(c.take<float>(Way::kRows * padded)),
        sums(c.take<float>(Way::kRows * round_up(dh, kPanel))) {}

  void load(const HeadRows& k, const HeadRows& v) const {
    pack_columns(k, nk, dh, keys);
    pack_row_pairs(v.pairs(), 0, nk, 0, dh, values, value_stride);
  }

  void rows(const HeadRows& q, int64_t first, int64_t count, float scale, bfloat16* out, int64_t out_stride) const {
    const int64_t wide = round_up(dh, kPanel);
    Way::multiply({count, padded, q.row(first), q.stride, keys, kPanel * dh, dh, scores, padded});
    for (int64_t r = 0; r < count; ++r) {
      HWY_DYNAMIC_DISPATCH(softmax_row)(scores + r * padded, nk, padded, scale);
      HWY_DYNAMIC_DISPATCH(round_row)(scores + r * padded, padded, probabilities + r * padded);
    }
    Way::multiply({count, wide, probabilities, padded, values, value_stride, nk, sums, wide});
    for (int64_t r = 0; r < count; ++r)
      HWY_DYNAMIC_DISPATCH(round_values)(sums + r * wide, dh, out + (first + r) * out_stride);
  }
};

// A gradient's rows of one head.
struct HeadTarget {
  std::byte* data = nullptr;
  int64_t stride = 0;
  DType dtype = DType::float32;
  bool add = false;

  HeadTarget(const Gradient& g, int64_t b, int64_t h) : add(!g.fresh) {
    if (!g.wanted()) return;
    dtype = g.at.dtype();
    stride = g.at.stride(1);
    data = g.at.raw() + (b * g.at.stride(0) + h * g.at.stride(2)) * static_cast<int64_t>(size_of(dtype));
  }

  // Columns [column, column + columns) of some rows, 64 apart in `from`.
  void store(int64_t row, int64_t rows, int64_t column, int64_t columns, const float* from) const {
    if (data == nullptr) return;
    store_tile(from, rows, columns, nullptr, data + (row * stride + column) * static_cast<int64_t>(size_of(dtype)),
               stride, dtype, add);
  }
};

template <class Way>
struct Backward {
  int64_t nk, dh, padded, block;  // block: queries at a time
  PairLayout layout;
  uint16_t *key_columns, *value_columns, *key_pairs;
  uint16_t *query_pairs, *dout_pairs;
  float *p, *dp;                           // [block][padded]
  uint16_t *ds_rows, *p_pairs, *ds_pairs;  // the same, two of them as `layout` says
  float *dkeys, *dvalues;                  // [groups of 64][nk][64]
  float* sums;

  Backward(Carver& c, int64_t key_count, int64_t width, int64_t queries)
      : nk(key_count),
        dh(width),
        padded(round_up(key_count, kPanel)),
        block(std::min(round_up(queries, Way::kQueries),
                       std::clamp<int64_t>(round_up(32768 / std::max(padded, kPanel), Way::kQueries),
                                           std::max<int64_t>(16, Way::kQueries), 128))),
        layout(Way::layout(padded, block)) {
    const int64_t panels = round_up(dh, kPanel), wide = round_up(dh, kTileColumns);
    key_columns = c.take<uint16_t>(padded * dh);
    value_columns = c.take<uint16_t>(padded * dh);
    key_pairs = c.take<uint16_t>(panels * round_up(nk, 2));
    query_pairs = c.take<uint16_t>(panels * block);
    dout_pairs = c.take<uint16_t>(panels * block);
    p = c.take<float>(block * padded);
    dp = c.take<float>(block * padded);
    p_pairs = c.take<uint16_t>(block * padded);
    ds_pairs = c.take<uint16_t>(block * padded);
    ds_rows = c.take<uint16_t>(block * padded);
    dkeys = c.take<float>(wide * nk);
    dvalues = c.take<float>(wide * nk);
    sums = c.take<float>(Way::kRows * kTileColumns);
  }

  void load(const HeadRows& k, const HeadRows& v) const {
    pack_columns(k, nk, dh, key_columns);
    pack_columns(v, nk, dh, value_columns);
    pack_row_pairs(k.pairs(), 0, nk, 0, dh, key_pairs, round_up(nk, 2) * kPanel);
  }

  void queries(const HeadRows& q, const HeadRows& dout, int64_t first, int64_t count, float scale) const {
    for (int64_t r = 0; r < count; r += Way::kRows) {
      const int64_t rows = std::min(Way::kRows, count - r), at = r * padded;
      Way::multiply({rows, padded, q.row(first + r), q.stride, key_columns, kPanel * dh, dh, p + at, padded});
      Way::multiply({rows, padded, dout.row(first + r), dout.stride, value_columns, kPanel * dh, dh, dp + at, padded});
      for (int64_t i = r; i < r + rows; ++i) HWY_DYNAMIC_DISPATCH(softmax_row)(p + i * padded, nk, padded, scale);
    }
    HWY_DYNAMIC_DISPATCH(score_gradients)(p, dp, count, padded, scale, layout, p_pairs, ds_pairs, ds_rows);
    pack_row_pairs(q.pairs(), first, count, 0, dh, query_pairs, block * kPanel);
    pack_row_pairs(dout.pairs(), first, count, 0, dh, dout_pairs, block * kPanel);
    if constexpr (Way::kAmx) make_tiles(count);
    for (int64_t j = 0; j < nk; j += Way::kKeys) {
      const int64_t rows = std::min(Way::kKeys, nk - j);
      transposed(ds_pairs, query_pairs, j, rows, count, dkeys, first != 0);
      transposed(p_pairs, dout_pairs, j, rows, count, dvalues, first != 0);
    }
  }

  // What the products over queries read on AMX: zeros behind the last query, and tiles of scores turned round.
  void make_tiles(int64_t count) const {
    const int64_t stride = block * kPanel, columns = round_up(dh, kPanel) / kPanel, keys = padded / kPanel;
    for (uint16_t* const pairs : {query_pairs, dout_pairs}) clear_pairs(pairs, columns, stride, count);
    for (uint16_t* const pairs : {p_pairs, ds_pairs}) {
      clear_pairs(pairs, keys, stride, count);
      for (int64_t j = 0; j < keys; ++j)
        for (int64_t i = 0; i < count; i += AmxWay::kQueries) transpose_tile(pairs + j * stride + i * kPanel);
    }
  }

  // to[rows of keys] (+)= scores^T * pairs, over the queries of a block.
  void transposed(const uint16_t* scores, const uint16_t* pairs, int64_t j, int64_t rows, int64_t count, float* to,
                  bool accumulate) const {
    const uint16_t* const from = scores + j / kPanel * layout.panel + j % kPanel * 2;
    for (int64_t c = 0; c < dh; c += kTileColumns)
      Way::multiply({rows, std::min(kTileColumns, dh - c), from, layout.lda, pairs + c * block, block * kPanel,
                     round_up(count, Way::kQueries), to + c * nk + j * kTileColumns, kTileColumns, true, accumulate});
  }

  void store_queries(const HeadTarget& dq, int64_t first, int64_t count) const {
    const int64_t even = round_up(nk, 2);
    for (int64_t r = 0; r < count; r += Way::kRows) {
      const int64_t rows = std::min(Way::kRows, count - r);
      for (int64_t c = 0; c < dh; c += kTileColumns) {
        const int64_t columns = std::min(kTileColumns, dh - c);
        Way::multiply(
            {rows, columns, ds_rows + r * padded, padded, key_pairs + c * even, even * kPanel, nk, sums, kTileColumns});
        dq.store(first + r, rows, c, columns, sums);
      }
    }
  }

  void clear() const {
    std::fill_n(dkeys, round_up(dh, kTileColumns) * nk, 0.0f);
    std::fill_n(dvalues, round_up(dh, kTileColumns) * nk, 0.0f);
  }

  void store_keys(const HeadTarget& target, const float* from) const {
    for (int64_t c = 0; c < dh; c += kTileColumns)
      target.store(0, nk, c, std::min(kTileColumns, dh - c), from + c * nk);
  }
};

template <class Way>
void forward_heads(const Tensor& q, const Tensor& k, const Tensor& v, float scale, const Tensor& out, Arena& arena,
                   int threads) {
  const int64_t n = q.dim(1), heads = q.dim(2), head_count = q.dim(0) * heads;
  // Few heads: queries are cut too, so that every thread has work. Rows do not notice.
  const int64_t cuts = head_count % threads == 0 || head_count >= 8 * threads ? 1 : threads;
  const int64_t rows_per_cut = round_up((n + cuts - 1) / cuts, Way::kRows);
  std::shared_ptr<Storage> memory;
  const auto works = for_threads<Forward<Way>>(memory, arena, threads, k.dim(1), q.dim(3));
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < head_count * cuts; ++item) {
    const AmxTiles tiles(Way::kAmx);
    const Forward<Way>& work = works[static_cast<size_t>(omp_get_thread_num())];
    const int64_t b = item / cuts / heads, h = item / cuts % heads;
    work.load(HeadRows(k, b, h), HeadRows(v, b, h));
    const HeadRows query(q, b, h);
    bfloat16* const to = out.data<bfloat16>() + b * out.stride(0) + h * out.stride(2);
    const int64_t end = std::min(n, (item % cuts + 1) * rows_per_cut);
    for (int64_t i = item % cuts * rows_per_cut; i < end; i += Way::kRows)
      work.rows(query, i, std::min(Way::kRows, end - i), scale, to, out.stride(1));
  }
}

template <class Way>
void backward_heads(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                    const Gradient& dq, const Gradient& dk, const Gradient& dv, Arena& arena, int threads) {
  const int64_t n = q.dim(1), heads = q.dim(2);
  std::shared_ptr<Storage> memory;
  const auto works = for_threads<Backward<Way>>(memory, arena, threads, k.dim(1), q.dim(3), n);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < q.dim(0) * heads; ++item) {
    const AmxTiles tiles(Way::kAmx);
    const Backward<Way>& work = works[static_cast<size_t>(omp_get_thread_num())];
    const int64_t b = item / heads, h = item % heads;
    const HeadRows query(q, b, h), gradient(dout, b, h);
    const HeadTarget dquery(dq, b, h);
    work.load(HeadRows(k, b, h), HeadRows(v, b, h));
    if (n == 0) work.clear();
    for (int64_t i = 0; i < n; i += work.block) {
      const int64_t count = std::min(work.block, n - i);
      work.queries(query, gradient, i, count, scale);
      work.store_queries(dquery, i, count);
    }
    work.store_keys(HeadTarget(dk, b, h), work.dkeys);
    work.store_keys(HeadTarget(dv, b, h), work.dvalues);
  }
}

}  // namespace

void dot_attention(const Tensor& q, const Tensor& k, const Tensor& v, float scale, const Tensor& out, Arena& arena,
                   int threads) {
  const auto run = has_amx_bf16() ? forward_heads<AmxWay> : forward_heads<DotWay>;
  run(q, k, v, scale, out, arena, threads);
}

void dot_attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, float scale,
                            const Gradient& dq, const Gradient& dk, const Gradient& dv, Arena& arena, int threads) {
  const auto run = has_amx_bf16() ? backward_heads<AmxWay> : backward_heads<DotWay>;
  run(dout, q, k, v, scale, dq, dk, dv, arena, threads);
}

}  // namespace raedit::backend::cpu
#endif  // HWY_ONCE
