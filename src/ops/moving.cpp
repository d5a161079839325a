#include "ops/moving.h"

#include "backend/kernels.h"
#include "ops/check_operands.h"
#include "ops/tape.h"

namespace raedit::ops {
namespace {

// A contiguous copy of a view; its gradient goes back through the same view.
Tensor copy(Context& ctx, const Tensor& x, DType dtype) {
  const Tensor out = ctx.empty(x.shape(), dtype);
  ctx.kernels().copy(ctx.here(x), out);
  if (Tape* tape = Tape::recording(ctx, {&x})) {
    tape->record(
        out, [dx = tape->slot(x)](Context& c, Tape& t, const Tensor& dout) { t.pass_on(c, dx, dout); },
        Tape::Dout::any);
  }
  return out;
}

}  // namespace

Tensor contiguous(Context& ctx, const Tensor& x) {
  return x.is_contiguous() ? x : copy(ctx, x, x.dtype());
}

Tensor cast(Context& ctx, const Tensor& x, DType dtype) {
  return x.dtype() == dtype ? x : copy(ctx, x, dtype);
}

Tensor concat(Context& ctx, const std::vector<Tensor>& parts, int dim) {
  RAEDIT_CHECK(!parts.empty(), {.code = ErrorCode::internal, .what = "nothing to join", .where = "concat"});
  Shape shape = parts.front().shape();
  int64_t length = 0;
  for (const Tensor& part : parts) {
    Shape expected = shape;
    expected.set(dim, part.dim(dim));
    check_shape("concat", "part", part.shape(), expected);
    length += part.dim(dim);
  }
  shape.set(dim, length);
  const Tensor out = ctx.empty(shape, parts.front().dtype());

  std::vector<Tape::Slot> slots;
  bool wanted = false;
  int64_t at = 0;
  for (const Tensor& part : parts) {
    ctx.kernels().copy(ctx.here(part), out.slice(dim, at, at + part.dim(dim)));
    at += part.dim(dim);
    slots.push_back(ctx.tape() != nullptr ? ctx.tape()->slot(part) : Tape::Slot());
    wanted = wanted || slots.back().wanted();
  }
  if (wanted) {
    std::vector<int64_t> lengths;
    for (const Tensor& part : parts) lengths.push_back(part.dim(dim));
    ctx.tape()->record(
        out,
        [slots, lengths, dim](Context& c, Tape& t, const Tensor& dout) {
          int64_t begin = 0;
          for (size_t i = 0; i < slots.size(); ++i) {
            c.kernels().copy_into(dout.slice(dim, begin, begin + lengths[i]), t.target(c, slots[i]));
            begin += lengths[i];
          }
        },
        Tape::Dout::any);
  }
  return out;
}

Tensor patchify(Context& ctx, const Tensor& x, int64_t patch_size) {
  check_rank("patchify", "x", x, 4);
  const int64_t batch = x.dim(0), channels = x.dim(1), p = patch_size;
  const int64_t h = x.dim(2) / p, w = x.dim(3) / p;
  const Tensor whole = contiguous(ctx, x.slice(2, 0, h * p).slice(3, 0, w * p));
  // [B,C,h,p,w,p] -> [B,h,w,C,p,p]
  const Tensor patches = whole.reshape({batch, channels, h, p, w, p}).transpose(1, 2).transpose(2, 4).transpose(3, 4);
  return contiguous(ctx, patches).reshape({batch, h * w, channels * p * p});
}

Tensor unpatchify(Context& ctx, const Tensor& tokens, int64_t height, int64_t width, int64_t patch_size) {
  check_rank("unpatchify", "tokens", tokens, 3);
  const int64_t batch = tokens.dim(0), p = patch_size;
  const int64_t channels = tokens.dim(2) / (p * p);
  check_shape("unpatchify", "tokens", tokens.shape(), {batch, height * width, channels * p * p});
  // [B,h,w,p,p,C] -> [B,C,h,p,w,p]
  const Tensor patches = contiguous(ctx, tokens).reshape({batch, height, width, p, p, channels});
  const Tensor image = patches.transpose(1, 5).transpose(2, 5).transpose(4, 5);
  return contiguous(ctx, image).reshape({batch, channels, height * p, width * p});
}

}  // namespace raedit::ops
