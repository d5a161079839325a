// Resampling of images along both axes: weighted sums of taps, first along the rows (W), then along the columns; back,
// the transposed tables in the opposite order. Products and sums are rounded one by one, in the CPU's order.
#include <cstring>
#include <vector>

#include "backend/cuda/cuda_kernels.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/walk.h"

namespace raedit::backend::cuda {
namespace {

struct Tap {
  int32_t index;
  float weight;
};

// Position i of the result is the sum of taps[begin[i]] to taps[begin[i + 1] - 1].
struct Table {
  std::vector<int32_t> begin = {0};
  std::vector<Tap> taps;

  size_t bytes() const { return taps.size() * sizeof(Tap) + begin.size() * sizeof(int32_t); }
};

Table table_of(const ResampleAxis& axis) {
  Table table;
  for (const ResampleAxis::Taps& output : axis.outputs) {
    for (size_t k = 0; k < output.weights.size(); ++k)
      table.taps.push_back({static_cast<int32_t>(output.first + static_cast<int64_t>(k)), output.weights[k]});
    table.begin.push_back(static_cast<int32_t>(table.taps.size()));
  }
  return table;
}

// For each of `inputs` positions, the outputs that it goes into, in their order.
Table transposed(const ResampleAxis& axis, int64_t inputs) {
  std::vector<std::vector<Tap>> lists(static_cast<size_t>(inputs));
  for (size_t i = 0; i < axis.outputs.size(); ++i) {
    const ResampleAxis::Taps& output = axis.outputs[i];
    for (size_t k = 0; k < output.weights.size(); ++k)
      lists[static_cast<size_t>(output.first) + k].push_back({static_cast<int32_t>(i), output.weights[k]});
  }
  Table table;
  for (const std::vector<Tap>& list : lists) {
    table.taps.insert(table.taps.end(), list.begin(), list.end());
    table.begin.push_back(static_cast<int32_t>(table.taps.size()));
  }
  return table;
}

// A table where the device can read it.
struct DeviceTable {
  const Tap* taps;
  const int32_t* begin;
};

DeviceTable placed(const Table& table, std::vector<std::byte>& bytes, const std::byte* device) {
  const size_t first = bytes.size(), taps = table.taps.size() * sizeof(Tap);
  bytes.resize((first + table.bytes() + 15) / 16 * 16);
  if (taps > 0) std::memcpy(bytes.data() + first, table.taps.data(), taps);
  std::memcpy(bytes.data() + first + taps, table.begin.data(), table.begin.size() * sizeof(int32_t));
  return {reinterpret_cast<const Tap*>(device + first), reinterpret_cast<const int32_t*>(device + first + taps)};
}

// One pass: [B,C,H,W] of any strides on both sides, the result's positions counted row by row.
struct Pass {
  Divider channels, rows, columns;  // of the result
  uint32_t count;
  bool along_rows;  // the sums run along W
  int64_t in[4], out[4];
  DeviceTable table;
};

template <bool kAdd, class I, class O>
__global__ void __launch_bounds__(kThreads) sum_taps(Pass pass, const I* in, O* out) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= pass.count) return;
  const uint32_t line = pass.columns.quotient(i), plane = pass.rows.quotient(line), b = pass.channels.quotient(plane);
  const int64_t x = i - line * pass.columns.divisor, y = line - plane * pass.rows.divisor;
  const int64_t c = plane - b * pass.channels.divisor;
  in += b * pass.in[0] + c * pass.in[1] + (pass.along_rows ? y * pass.in[2] : x * pass.in[3]);
  const int64_t step = pass.along_rows ? pass.in[3] : pass.in[2];
  const int64_t position = pass.along_rows ? x : y;
  float sum = 0;
  for (int32_t k = pass.table.begin[position]; k < pass.table.begin[position + 1]; ++k) {
    const Tap tap = pass.table.taps[k];
    sum = __fadd_rn(sum, __fmul_rn(tap.weight, to_float(in[tap.index * step])));
  }
  out += b * pass.out[0] + c * pass.out[1] + y * pass.out[2] + x * pass.out[3];
  if constexpr (kAdd)
    *out += sum;
  else
    *out = from_float<O>(sum);
}

struct Planes {
  int64_t sizes[4];
  int64_t strides[4];
};

Planes planes_of(const Tensor& t) {
  Planes planes;
  for (int i = 0; i < 4; ++i) {
    planes.sizes[i] = t.dim(i);
    planes.strides[i] = t.stride(i);
  }
  return planes;
}

Planes contiguous_planes(int64_t batch, int64_t channels, int64_t rows, int64_t columns) {
  return {{batch, channels, rows, columns}, {channels * rows * columns, rows * columns, columns, 1}};
}

template <bool kAdd, class I, class O>
void run_pass(const Runtime& rt, const Planes& in, const Planes& out, bool along_rows, DeviceTable table,
              const I* source, O* target) {
  Pass pass{Divider(out.sizes[1]), Divider(out.sizes[2]), Divider(out.sizes[3])};
  pass.count = static_cast<uint32_t>(out.sizes[0] * out.sizes[1] * out.sizes[2] * out.sizes[3]);
  pass.along_rows = along_rows;
  std::copy(in.strides, in.strides + 4, pass.in);
  std::copy(out.strides, out.strides + 4, pass.out);
  pass.table = table;
  launch(rt, "resample", sum_taps<kAdd, I, O>, dim3(static_cast<unsigned>(ceil_div(pass.count, kThreads))),
         dim3(kThreads), 0, pass, source, target);
}

// Scratch of one call: the tables of both axes, and float32 planes with `in`'s rows and `out`'s columns.
struct Scratch {
  DeviceTable vertical, horizontal;
  Planes planes;
  float* middle;
};

// A captured step takes along what fits the arguments of a kernel, so large tables go in parts there.
void upload(const Runtime& rt, const DeviceMemory& memory, const std::vector<std::byte>& bytes, std::byte* device) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(rt.stream(), &status), "cudaStreamIsCapturing");
  const size_t most = status == cudaStreamCaptureStatusNone ? bytes.size() : size_t{kInlineBytes};
  for (size_t begin = 0; begin < bytes.size(); begin += most)
    memory.from_host(device + begin, bytes.data() + begin, std::min(most, bytes.size() - begin));
}

Scratch prepare(const Runtime& rt, const DeviceMemory& memory, const Table& vertical, const Table& horizontal,
                const Planes& planes) {
  constexpr size_t kAlign = 256;
  const size_t tables = (vertical.bytes() + horizontal.bytes() + 32 + kAlign - 1) / kAlign * kAlign;
  const auto elements = static_cast<size_t>(planes.sizes[0] * planes.strides[0]);
  std::byte* device = rt.workspace(tables + elements * sizeof(float));
  std::vector<std::byte> bytes;
  Scratch scratch;
  scratch.vertical = placed(vertical, bytes, device);
  scratch.horizontal = placed(horizontal, bytes, device);
  scratch.planes = planes;
  scratch.middle = reinterpret_cast<float*>(device + tables);
  upload(rt, memory, bytes, device);
  return scratch;
}

// Whether a call has more elements than a kernel counts, on the way too; then it goes picture by picture.
bool too_large(const Tensor& in, const Tensor& out) {
  const int64_t lines = in.dim(0) * in.dim(1);
  return in.dim(0) > 1 && lines * std::max(in.dim(2), out.dim(2)) * std::max(in.dim(3), out.dim(3)) > kMostElements;
}

}  // namespace

void CudaKernels::resample(const Tensor& x, const ResampleAxis& vertical, const ResampleAxis& horizontal,
                           const Tensor& out) const {
  if (out.numel() == 0) return;
  if (too_large(x, out)) {
    for (int64_t b = 0; b < x.dim(0); ++b) resample(x.slice(0, b, b + 1), vertical, horizontal, out.slice(0, b, b + 1));
    return;
  }
  check_dtype("resample", out, x.dtype());
  const Planes planes = contiguous_planes(x.dim(0), x.dim(1), x.dim(2), out.dim(3));
  const Scratch scratch = prepare(rt_, *memory(), table_of(vertical), table_of(horizontal), planes);
  with_type(x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    run_pass<false>(rt_, planes_of(x), planes, true, scratch.horizontal, pointer<const T>(x), scratch.middle);
    run_pass<false>(rt_, planes, planes_of(out), false, scratch.vertical, static_cast<const float*>(scratch.middle),
                    pointer<T>(out));
  });
}

void CudaKernels::resample_backward(const Tensor& dout, const ResampleAxis& vertical, const ResampleAxis& horizontal,
                                    const Tensor& dx) const {
  if (!dx.defined() || dx.numel() == 0 || dout.numel() == 0) return;
  if (too_large(dx, dout)) {
    for (int64_t b = 0; b < dx.dim(0); ++b)
      resample_backward(dout.slice(0, b, b + 1), vertical, horizontal, dx.slice(0, b, b + 1));
    return;
  }
  const Planes planes = contiguous_planes(dx.dim(0), dx.dim(1), dx.dim(2), dout.dim(3));
  const Scratch scratch =
      prepare(rt_, *memory(), transposed(vertical, dx.dim(2)), transposed(horizontal, dx.dim(3)), planes);
  run_pass<false>(rt_, planes_of(dout), planes, false, scratch.vertical, pointer<const float>(dout), scratch.middle);
  run_pass<true>(rt_, planes, planes_of(dx), true, scratch.horizontal, static_cast<const float*>(scratch.middle),
                 pointer<float>(dx));
}

}  // namespace raedit::backend::cuda
