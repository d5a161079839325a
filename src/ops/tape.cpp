#include "ops/tape.h"

#include <cstring>
#include <utility>

#include "backend/kernels.h"
#include "core/check.h"

namespace raedit {
namespace {

// Ops that run inside backward() must not record.
class WithoutTape {
 public:
  explicit WithoutTape(Context& ctx) : ctx_(ctx), tape_(ctx.tape()) { ctx_.set_tape(nullptr); }
  ~WithoutTape() { ctx_.set_tape(tape_); }
  WithoutTape(const WithoutTape&) = delete;
  WithoutTape& operator=(const WithoutTape&) = delete;

 private:
  Context& ctx_;
  Tape* tape_;
};

}  // namespace

void Tape::add_entry(const Tensor& tensor, bool leaf) {
  const uint64_t id = tensor.storage()->id();
  if (entries_.contains(id)) return;
  const size_t elements = tensor.storage()->bytes() / size_of(tensor.dtype());
  auto shape_only = std::make_shared<Storage>(nullptr, elements * sizeof(float), [](std::byte*, size_t) {});
  owner_of_slot_[shape_only->id()] = id;
  entries_[id] = Entry{std::move(shape_only), nullptr, leaf};
}

void Tape::watch(const Tensor& leaf) {
  // A mapped file is one storage for many tensors; a trained parameter has its own.
  RAEDIT_CHECK(leaf.defined() && !leaf.storage()->read_only(),
               {.code = ErrorCode::internal, .what = "a read-only tensor cannot be trained", .where = "Tape::watch"});
  add_entry(leaf, true);
}

bool Tape::wants(const Tensor& tensor) const {
  return tensor.defined() && entries_.contains(tensor.storage()->id());
}

Tape* Tape::recording(const Context& ctx, std::initializer_list<const Tensor*> operands) {
  Tape* tape = ctx.tape();
  if (tape == nullptr) return nullptr;
  for (const Tensor* operand : operands)
    if (tape->wants(*operand)) return tape;
  return nullptr;
}

Tape::Slot Tape::slot(const Tensor& tensor) const {
  Slot slot;
  if (wants(tensor)) slot.view_ = tensor.same_view_of(entries_.at(tensor.storage()->id()).shape_only, DType::float32);
  return slot;
}

void Tape::record(const Tensor& out, Backward backward) {
  add_entry(out, false);
  nodes_.push_back(Node{slot(out), out.storage()->id(), std::move(backward)});
}

Tensor Tape::grad(Context& ctx, const Slot& slot) {
  if (!slot.wanted()) return Tensor();
  Entry& entry = entries_.at(owner_of_slot_.at(slot.view_.storage()->id()));
  if (entry.memory == nullptr)
    entry.memory =
        ctx.zeros({static_cast<int64_t>(entry.shape_only->bytes() / sizeof(float))}, DType::float32).storage();
  return slot.view_.same_view_of(entry.memory, DType::float32);
}

Tensor Tape::grad(Context& ctx, const Tensor& tensor) {
  RAEDIT_CHECK(wants(tensor),
               {.code = ErrorCode::internal, .what = "no gradient was asked for", .where = "Tape::grad"});
  return grad(ctx, slot(tensor));
}

void Tape::backward(Context& ctx, const Tensor& out, const Tensor& dout) {
  RAEDIT_CHECK(
      wants(out),
      {.code = ErrorCode::internal, .what = "nothing recorded leads to this tensor", .where = "Tape::backward"});
  RAEDIT_CHECK(out.shape() == dout.shape(), {.code = ErrorCode::internal,
                                             .what = "the gradient has another shape than the tensor",
                                             .where = "Tape::backward",
                                             .found = dout.shape().str(),
                                             .expected = out.shape().str()});
  WithoutTape pause(ctx);
  Tensor start = ctx.here(dout);
  if (start.dtype() != DType::float32) {
    start = ctx.empty(dout.shape(), DType::float32);
    ctx.kernels().copy(ctx.here(dout), start);
  }
  ctx.kernels().accumulate(start, grad(ctx, slot(out)));
  while (!nodes_.empty()) {
    const Node node = std::move(nodes_.back());
    nodes_.pop_back();
    // Untouched: no path from the result leads here.
    if (entries_.at(node.out_id).memory != nullptr) node.backward(ctx, *this, grad(ctx, node.out));
    // The only producer has run: nobody adds to this gradient any more.
    owner_of_slot_.erase(entries_.at(node.out_id).shape_only->id());
    entries_.erase(node.out_id);
  }
}

}  // namespace raedit
