#include "ops/resample.h"

#include <algorithm>
#include <cmath>

#include "backend/kernels.h"
#include "ops/check_operands.h"
#include "ops/composite.h"
#include "ops/tape.h"

namespace raedit::ops {
namespace {

using backend::ResampleAxis;

// Keys' cubic convolution kernel.
double cubic(double x, double a) {
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

// Adds a tap at `index`, clamped into the axis, where it may meet another.
void add_tap(ResampleAxis::Taps& taps, int64_t index, int64_t size, double weight) {
  const int64_t inside = std::clamp<int64_t>(index, 0, size - 1);
  const auto at = static_cast<size_t>(inside - taps.first);
  if (taps.weights.size() <= at) taps.weights.resize(at + 1, 0.0f);
  taps.weights[at] += static_cast<float>(weight);
}

ResampleAxis::Taps plain_taps(double source, int64_t size, Filter filter) {
  ResampleAxis::Taps taps;
  if (filter == Filter::bilinear) {
    source = std::max(source, 0.0);
    const auto left = static_cast<int64_t>(source);
    taps.first = std::min(left, size - 1);
    add_tap(taps, left, size, 1.0 - (source - static_cast<double>(left)));
    add_tap(taps, left + 1, size, source - static_cast<double>(left));
    return taps;
  }
  const auto left = static_cast<int64_t>(std::floor(source));
  taps.first = std::clamp<int64_t>(left - 1, 0, size - 1);
  for (int64_t i = left - 1; i <= left + 2; ++i) add_tap(taps, i, size, cubic(source - static_cast<double>(i), -0.75));
  return taps;
}

ResampleAxis::Taps antialias_taps(double center, double scale, int64_t size) {
  const double stretch = std::max(scale, 1.0);
  const double support = 2.0 * stretch;
  ResampleAxis::Taps taps;
  taps.first = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
  const int64_t end = std::min<int64_t>(static_cast<int64_t>(center + support + 0.5), size);
  std::vector<double> weights;
  double sum = 0.0;
  for (int64_t i = taps.first; i < end; ++i) {
    weights.push_back(cubic((static_cast<double>(i) - center + 0.5) / stretch, -0.5));
    sum += weights.back();
  }
  for (const double weight : weights) taps.weights.push_back(static_cast<float>(weight / sum));
  return taps;
}

ResampleAxis make_axis(int64_t from, int64_t to, Filter filter) {
  // float32 here as there: the ratio of the sizes is rounded before it is used.
  const double scale = static_cast<float>(from) / static_cast<float>(to);
  ResampleAxis axis;
  for (int64_t i = 0; i < to; ++i) {
    const double center = scale * (static_cast<double>(i) + 0.5);
    axis.outputs.push_back(filter == Filter::bicubic_antialias ? antialias_taps(center, scale, from)
                                                               : plain_taps(center - 0.5, from, filter));
  }
  return axis;
}

}  // namespace

Tensor resample(Context& ctx, const Tensor& x, int64_t height, int64_t width, Filter filter) {
  check_compute_dtype("resample", x);
  check_rank("resample", "x", x, 4);
  RAEDIT_CHECK(x.numel() > 0 && height > 0 && width > 0, {.code = ErrorCode::invalid_argument,
                                                          .what = "an empty picture cannot be resized",
                                                          .where = "resample",
                                                          .found = x.shape().str()});
  const ResampleAxis vertical = make_axis(x.dim(2), height, filter);
  const ResampleAxis horizontal = make_axis(x.dim(3), width, filter);
  const Tensor out = ctx.empty({x.dim(0), x.dim(1), height, width}, x.dtype());
  ctx.kernels().resample(ctx.here(x), vertical, horizontal, out);
  if (Tape* tape = Tape::recording(ctx, {&x})) {
    tape->record(out, [vertical, horizontal, dx = tape->slot(x)](Context& c, Tape& t, const Tensor& dout) {
      c.kernels().resample_backward(dout, vertical, horizontal, t.grad(c, dx));
    });
  }
  return out;
}

}  // namespace raedit::ops

namespace raedit::composite {

Tensor resample(const Tensor& x, int64_t height, int64_t width, ops::Filter filter) {
  const int64_t rows = x.dim(2), columns = x.dim(3), planes = x.dim(0) * x.dim(1);
  const auto vertical = ops::make_axis(rows, height, filter);
  const auto horizontal = ops::make_axis(columns, width, filter);
  const auto xs = doubles(x);
  std::vector<double> out;
  for (int64_t plane = 0; plane < planes; ++plane) {
    for (const auto& v : vertical.outputs) {
      for (const auto& h : horizontal.outputs) {
        double sum = 0.0;
        for (size_t i = 0; i < v.weights.size(); ++i)
          for (size_t j = 0; j < h.weights.size(); ++j)
            sum += double{v.weights[i]} * double{h.weights[j]} *
                   xs[static_cast<size_t>((plane * rows + v.first + static_cast<int64_t>(i)) * columns + h.first) + j];
        out.push_back(sum);
      }
    }
  }
  return tensor(out, {x.dim(0), x.dim(1), height, width});
}

}  // namespace raedit::composite
