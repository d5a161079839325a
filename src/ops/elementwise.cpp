#include "ops/elementwise.h"

#include "ops/check_operands.h"
#include "ops/composite.h"
#include "ops/tape.h"

namespace raedit::ops {
namespace {

const char* name_of(backend::Binary kind) {
  switch (kind) {
    case backend::Binary::add: return "add";
    case backend::Binary::sub: return "sub";
    case backend::Binary::mul: return "mul";
    case backend::Binary::div: return "div";
  }
  return "binary";
}

}  // namespace

Tensor binary(Context& ctx, backend::Binary kind, const Tensor& a, const Tensor& b) {
  check_compute_dtype(name_of(kind), a);
  check_compute_dtype(name_of(kind), b);
  const Tensor wide = expand_to(name_of(kind), "b", b, a.shape());
  const Tensor out = ctx.empty(a.shape(), a.dtype());
  const Tensor left = ctx.here(a), right = ctx.here(b).expand(a.shape());
  ctx.kernels().binary(kind, left, right, out);
  if (Tape* tape = Tape::recording(ctx, {&a, &b})) {
    tape->record(
        out,
        [kind, left, right, da = tape->slot(a), db = tape->slot(wide)](Context& c, Tape& t, const Tensor& dout) {
          if (kind != backend::Binary::add)
            return c.kernels().binary_backward(kind, dout, left, right, t.grad(c, da), t.grad(c, db));
          c.kernels().copy_into(dout, t.target(c, db));
          t.pass_on(c, da, dout);
        },
        kind == backend::Binary::add ? Tape::Dout::any : Tape::Dout::float32);
  }
  return out;
}

Tensor scale(Context& ctx, const Tensor& x, float factor) {
  return mul(ctx, x, Tensor::full({1}, factor));
}

namespace {

// These two belong to sampling; a gradient must not get lost in them unnoticed.
void check_not_recording(const Context& ctx, const char* op, std::initializer_list<const Tensor*> operands) {
  RAEDIT_CHECK(Tape::recording(ctx, operands) == nullptr,
               {.code = ErrorCode::unsupported, .what = "has no gradient", .where = op});
}

}  // namespace

Tensor add_scaled(Context& ctx, const Tensor& a, float alpha, const Tensor& b) {
  check_compute_dtype("add_scaled", a);
  check_compute_dtype("add_scaled", b);
  check_shape("add_scaled", "b", b.shape(), a.shape());
  check_not_recording(ctx, "add_scaled", {&a, &b});
  const Tensor out = ctx.empty(a.shape(), a.dtype());
  ctx.kernels().add_scaled(ctx.here(a), alpha, ctx.here(b), out);
  return out;
}

Tensor clamp(Context& ctx, const Tensor& x, float low, float high) {
  check_compute_dtype("clamp", x);
  check_not_recording(ctx, "clamp", {&x});
  const Tensor out = ctx.empty(x.shape(), x.dtype());
  ctx.kernels().clamp(ctx.here(x), low, high, out);
  return out;
}

}  // namespace raedit::ops

namespace raedit::composite {

Tensor binary(backend::Binary kind, const Tensor& a, const Tensor& b) {
  auto values = doubles(a);
  const auto bs = doubles(b.expand(a.shape()));
  for (size_t i = 0; i < values.size(); ++i) {
    switch (kind) {
      case backend::Binary::add: values[i] += bs[i]; break;
      case backend::Binary::sub: values[i] -= bs[i]; break;
      case backend::Binary::mul: values[i] *= bs[i]; break;
      case backend::Binary::div: values[i] /= bs[i]; break;
    }
  }
  return tensor(values, a.shape());
}

}  // namespace raedit::composite
