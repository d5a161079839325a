#include "ops/tape.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/check.h"
#include "tensor/memory.h"

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

// Ops that a backward function runs anew must.
class Recorded {
 public:
  Recorded(Context& ctx, Tape& tape) : ctx_(ctx), before_(ctx.tape()) { ctx_.set_tape(&tape); }
  ~Recorded() { ctx_.set_tape(before_); }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;

 private:
  Context& ctx_;
  Tape* before_;
};

// Views here are of float32 storages without memory, whatever the memory's dtype.
int64_t elements_of(const std::shared_ptr<Storage>& shape_only) {
  return static_cast<int64_t>(shape_only->bytes() / sizeof(float));
}

bool repeats(const Tensor& view) {
  for (int i = 0; i < view.rank(); ++i)
    if (view.dim(i) > 1 && view.stride(i) == 0) return true;
  return false;
}

bool is_all_of(const Tensor& view, const std::shared_ptr<Storage>& storage) {
  return view.numel() == elements_of(storage) && !repeats(view);
}

// Whether two views that differ in their offset alone, as slices of one tensor do, share no element. Sufficient, not
// necessary: somewhere among the strides, both lie side by side in one step of all the larger ones.
bool apart(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape()) return false;
  std::array<std::pair<int64_t, int64_t>, Shape::kMaxRank> axes{};  // stride, size
  size_t count = 0;
  for (int i = 0; i < a.rank(); ++i) {
    if (a.dim(i) == 1) continue;
    if (a.stride(i) != b.stride(i)) return false;
    axes[count++] = {a.stride(i), a.dim(i)};
  }
  for (size_t i = 1; i < count; ++i)
    for (size_t k = i; k > 0 && axes[k] < axes[k - 1]; --k) std::swap(axes[k], axes[k - 1]);
  const auto bytes = static_cast<int64_t>(sizeof(float));
  const int64_t first = static_cast<int64_t>(std::min(a.offset_bytes(), b.offset_bytes())) / bytes,
                second = static_cast<int64_t>(std::max(a.offset_bytes(), b.offset_bytes())) / bytes;
  int64_t extent = 1;
  for (size_t i = 0; i <= count; ++i) {
    bool multiples = true;
    for (size_t k = i; k < count; ++k) multiples = multiples && axes[k].first % axes[i].first == 0;
    const bool beside = second - first >= extent;
    // In one step: counted from a multiple of the stride, so that neither reaches into the next.
    if (beside && (i == count || (multiples && first % axes[i].first + (second - first) + extent <= axes[i].first)))
      return true;
    if (i < count) extent += (axes[i].second - 1) * axes[i].first;
  }
  return false;
}

}  // namespace

Tape::Entry& Tape::add_entry(const Tensor& tensor, bool leaf) {
  const uint64_t id = tensor.storage()->id();
  const auto found = entries_.find(id);
  if (found != entries_.end()) return found->second;
  const size_t elements = tensor.storage()->bytes() / size_of(tensor.dtype());
  Entry entry;
  entry.shape_only = std::make_shared<Storage>(nullptr, elements * sizeof(float), [](std::byte*, size_t) {});
  entry.leaf = leaf;
  entry.half = half_ && !leaf && tensor.dtype() == DType::bfloat16;
  owner_of_slot_[entry.shape_only->id()] = id;
  return entries_[id] = std::move(entry);
}

void Tape::watch(const Tensor& leaf) {
  // A mapped file is one storage for many tensors; a trained parameter has its own.
  RAEDIT_CHECK(leaf.defined() && !leaf.storage()->read_only(),
               {.code = ErrorCode::internal, .what = "a read-only tensor cannot be trained", .where = "Tape::watch"});
  add_entry(leaf, true);
}

void Tape::watch(const Tensor& leaf, const Tensor& gradient, bool fresh, const Tensor& rounded) {
  watch(leaf);
  Entry& entry = add_entry(leaf, true);
  if (entry.memory != nullptr) return;  // another view of the same storage was watched
  RAEDIT_CHECK(gradient.dtype() == DType::float32 && gradient.storage()->bytes() >= entry.shape_only->bytes(),
               {.code = ErrorCode::internal, .what = "no memory for this gradient", .where = "Tape::watch"});
  entry.memory = gradient.storage();
  entry.touched = !fresh;
  entry.rounded = rounded;
}

bool Tape::wants(const Tensor& tensor) const {
  return tensor.defined() && entries_.contains(tensor.storage()->id());
}

Tensor Tape::rounded(const Tensor& leaf) const {
  if (!wants(leaf)) return Tensor();
  const Tensor& rounded = entries_.at(leaf.storage()->id()).rounded;
  return rounded.defined() ? leaf.same_view_of(rounded.storage(), DType::bfloat16) : Tensor();
}

void Tape::call_when_final(std::function<void(uint64_t)> callback) {
  when_final_ = std::move(callback);
  released_ = std::make_shared<std::vector<uint64_t>>();
}

std::shared_ptr<Storage> Tape::user_of(uint64_t id, const Entry& entry) const {
  if (auto users = entry.users.lock()) return users;
  std::shared_ptr<Storage> first(entry.shape_only.get(), [kept = entry.shape_only, released = released_, id](Storage*) {
    released->push_back(id);
  });
  entry.users = first;
  return first;
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
  if (!wants(tensor)) return slot;
  const uint64_t id = tensor.storage()->id();
  const Entry& entry = entries_.at(id);
  const bool counted = released_ != nullptr && entry.leaf && entry.memory != nullptr;
  slot.view_ = tensor.same_view_of(counted ? user_of(id, entry) : entry.shape_only, DType::float32);
  return slot;
}

void Tape::record(const Tensor& out, Backward backward, Dout dout) {
  add_entry(out, false);
  nodes_.push_back(Node{slot(out), out.storage()->id(), std::move(backward), dout});
}

// Nodes from this one on, and the gradients of their results, but for that of one tensor.
void Tape::forget(size_t first_node, const Tensor& but) {
  const uint64_t kept = but.storage()->id();
  for (; nodes_.size() > first_node; nodes_.pop_back()) {
    const uint64_t id = nodes_.back().out_id;
    if (id == kept) continue;
    owner_of_slot_.erase(entries_.at(id).shape_only->id());
    entries_.erase(id);
  }
}

// For a node that will record again what was forgotten: leaves that only the forgotten nodes led to.
std::vector<std::shared_ptr<Storage>> Tape::users_of_released() const {
  std::vector<std::shared_ptr<Storage>> users;
  if (released_ == nullptr) return users;
  for (const uint64_t id : *released_) users.push_back(user_of(id, entries_.at(id)));
  released_->clear();
  return users;
}

Tensor Tape::checkpointed(Context& ctx, const std::function<Tensor(Context&)>& work) {
  Tape* tape = ctx.tape();
  if (tape == nullptr || !tape->checkpointing_) return work(ctx);
  const size_t first = tape->nodes_.size();
  const Tensor out = work(ctx);
  if (tape->nodes_.size() == first) return out;
  if (tape->released_ != nullptr) tape->released_->clear();
  tape->forget(first, out);
  tape->record(
      out,
      [work, users = tape->users_of_released()](Context& c, Tape& t, const Tensor& dout) {
        // Its nodes are the last ones now, and the next to go back.
        const Recorded again(c, t);
        const Tensor result = work(c);
        t.pass_on(c, t.slot(result), dout);
      },
      Dout::any);
  return out;
}

// Zeros where nothing was written.
void Tape::fill_gaps(Context& ctx, Entry& entry) const {
  if (entry.parts.empty()) return;
  int64_t written = 0;
  for (const Tensor& part : entry.parts) written += part.numel();
  const std::vector<Tensor> parts = std::exchange(entry.parts, {});
  const int64_t elements = elements_of(entry.shape_only);
  if (written == elements) return;
  const Tensor whole = ctx.zeros({elements}, entry.dtype);
  for (const Tensor& part : parts)
    ctx.kernels().copy(part.same_view_of(entry.memory, entry.dtype), part.same_view_of(whole.storage(), entry.dtype));
  if (entry.leaf)
    ctx.kernels().copy(whole, Tensor(entry.memory, 0, {elements}, entry.dtype));  // it stays where it is
  else
    entry.memory = whole.storage();
}

void Tape::make_float32(Context& ctx, Entry& entry) const {
  fill_gaps(ctx, entry);
  if (entry.dtype == DType::float32) return;
  const int64_t elements = elements_of(entry.shape_only);
  const Tensor wide = ctx.empty({elements}, DType::float32);
  ctx.kernels().copy(Tensor(entry.memory, 0, {elements}, entry.dtype), wide);
  entry.memory = wide.storage();
  entry.dtype = DType::float32;
}

Tensor Tape::grad(Context& ctx, const Slot& slot) {
  if (!slot.wanted()) return Tensor();
  Entry& entry = entry_of(slot);
  if (entry.touched) {
    make_float32(ctx, entry);
  } else {
    const int64_t elements = elements_of(entry.shape_only);
    if (entry.memory != nullptr)
      fill_zero(Tensor(entry.memory, 0, {elements}, DType::float32));
    else
      entry.memory = ctx.zeros({elements}, DType::float32).storage();
    entry.touched = true;
  }
  return slot.view_.same_view_of(entry.memory, DType::float32);
}

Tensor Tape::grad(Context& ctx, const Tensor& tensor) {
  RAEDIT_CHECK(wants(tensor),
               {.code = ErrorCode::internal, .what = "no gradient was asked for", .where = "Tape::grad"});
  return grad(ctx, slot(tensor));
}

backend::Gradient Tape::target(Context& ctx, const Slot& slot) {
  if (!slot.wanted()) return {};
  Entry& entry = entry_of(slot);
  const Tensor& view = slot.view_;
  const auto fresh = [&] { return backend::Gradient{view.same_view_of(entry.memory, entry.dtype), true}; };
  if (!entry.touched) {
    if (repeats(view)) return {grad(ctx, slot), false};
    if (entry.memory == nullptr) {
      entry.dtype = entry.half ? DType::bfloat16 : DType::float32;
      entry.memory = ctx.empty({elements_of(entry.shape_only)}, entry.dtype).storage();
    }
    entry.touched = true;
    if (!is_all_of(view, entry.shape_only)) entry.parts.push_back(view.same_view_of(entry.shape_only, DType::float32));
    return fresh();
  }
  if (!entry.parts.empty() && !repeats(view) &&
      std::all_of(entry.parts.begin(), entry.parts.end(), [&](const Tensor& part) { return apart(part, view); })) {
    entry.parts.push_back(view.same_view_of(entry.shape_only, DType::float32));
    return fresh();
  }
  return {grad(ctx, slot), false};
}

// Whether slots of the same gradient as this one lie beside each other, and beside what was written before.
bool Tape::separate(const Slot& slot, std::span<const Slot> all) const {
  if (!slot.wanted()) return true;
  std::vector<const Tensor*> views;
  for (const Slot& other : all)
    if (other.wanted() && other.view_.storage() == slot.view_.storage()) views.push_back(&other.view_);
  if (views.size() == 1) return true;
  const Entry& entry = entries_.at(owner_of_slot_.at(slot.view_.storage()->id()));
  if (entry.touched && entry.parts.empty()) return false;
  for (size_t i = 0; i < views.size(); ++i) {
    if (repeats(*views[i])) return false;
    for (size_t k = 0; k < i; ++k)
      if (!apart(*views[i], *views[k])) return false;
    for (const Tensor& part : entry.parts)
      if (!apart(*views[i], part)) return false;
  }
  return true;
}

void Tape::pass_on(Context& ctx, const Slot& slot, const Tensor& dout) {
  if (!slot.wanted()) return;
  Entry& entry = entry_of(slot);
  const bool takes = !entry.touched && entry.memory == nullptr && slot.view_.is_contiguous() &&
                     is_all_of(slot.view_, entry.shape_only) && dout.is_contiguous() && dout.offset_bytes() == 0 &&
                     (dout.dtype() == DType::float32 || entry.half);
  if (!takes) return ctx.kernels().copy_into(dout, target(ctx, slot));
  entry.memory = dout.storage();
  entry.dtype = dout.dtype();
  entry.touched = true;
}

// What no path led to is zero.
void Tape::complete(Context& ctx, uint64_t id, Entry& entry) {
  fill_gaps(ctx, entry);
  if (entry.memory == nullptr || entry.final) return;
  if (!entry.touched) fill_zero(Tensor(entry.memory, 0, {elements_of(entry.shape_only)}, DType::float32));
  entry.touched = true;
  if (!when_final_ || !entry.leaf) return;
  entry.final = true;
  when_final_(id);
}

void Tape::complete_released(Context& ctx) {
  if (released_ == nullptr) return;
  for (const uint64_t id : std::exchange(*released_, {})) {
    Entry& entry = entries_.at(id);
    if (entry.users.expired()) complete(ctx, id, entry);
  }
}

void Tape::complete_leaves(Context& ctx) {
  for (auto& [id, entry] : entries_) complete(ctx, id, entry);
}

void Tape::run_last_node(Context& ctx) {
  const Node node = std::move(nodes_.back());
  nodes_.pop_back();
  Entry& entry = entries_.at(node.out_id);
  // Untouched: no path from the result leads here.
  if (entry.touched) {
    fill_gaps(ctx, entry);
    if (node.dout == Dout::float32) make_float32(ctx, entry);
    node.backward(ctx, *this, node.out.view_.same_view_of(entry.memory, entry.dtype));
  }
  // The only producer has run: nobody adds to this gradient any more.
  owner_of_slot_.erase(entries_.at(node.out_id).shape_only->id());
  entries_.erase(node.out_id);
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
  ctx.kernels().copy_into(start, target(ctx, slot(out)));
  while (!nodes_.empty()) {
    run_last_node(ctx);
    complete_released(ctx);
  }
  complete_leaves(ctx);
}

}  // namespace raedit
