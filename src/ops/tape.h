// Tape: how training goes back. An op that runs with a tape records one function that adds to the gradients of its
// inputs; nothing is recorded at inference.
//
// Gradients belong to storages, not to tensors: a view (slice, reshape, transpose, broadcast) of a tensor has the same
// view of the gradient, so views need no rule of their own. A slot names a gradient without keeping the tensor's
// numbers alive; an op keeps only the operands that it captures.
//
// A gradient is memory that nobody has touched until the first contribution comes, which is then written, not added:
// target() says which it is. Gradients are float32; with use_half_gradients() those of bfloat16 activations are
// bfloat16 as long as there is one contribution to each element, and become float32 when there is a second.
#pragma once

#include <array>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "backend/kernels.h"
#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit {

class Tape {
 public:
  // A place for a gradient; empty when none is wanted.
  class Slot {
   public:
    bool wanted() const { return view_.defined(); }

   private:
    friend class Tape;
    Tensor view_;  // the shape and strides, over a storage without memory
  };

  using Backward = std::function<void(Context&, Tape&, const Tensor& dout)>;
  // What a backward function can take: a dout that is float32, or one that may be bfloat16.
  enum class Dout { float32, any };

  // A leaf (a parameter or an input) whose gradient is wanted.
  void watch(const Tensor& leaf);
  // The same, and the gradient is to be in `gradient`, which is as large as all of the leaf's storage: written if
  // `fresh`, else added to. `rounded`, as large too, may hold the leaf's storage in bfloat16: see rounded().
  void watch(const Tensor& leaf, const Tensor& gradient, bool fresh, const Tensor& rounded = {});
  bool wants(const Tensor& tensor) const;
  // The bfloat16 numbers of a watched tensor, or an undefined tensor.
  Tensor rounded(const Tensor& leaf) const;
  void use_half_gradients() { half_ = true; }
  // From now on, of what runs in checkpointed() only the operands and the result are kept.
  void use_checkpointing() { checkpointing_ = true; }

  // From now on, backward() says of every leaf watched with memory when nothing more is added to its gradient, which is
  // in its memory then, or queued to be: by the id of the leaf's storage, once. Before anything is recorded.
  void call_when_final(std::function<void(uint64_t storage_id)> callback);

  // The tape to record on, or null: none is set, or no operand wants a gradient. Undefined operands are skipped.
  static Tape* recording(const Context& ctx, std::initializer_list<const Tensor*> operands);
  Slot slot(const Tensor& tensor) const;
  // `out` must be fresh and contiguous. `backward` runs once, in reverse order of recording, with the gradient of out.
  void record(const Tensor& out, Backward backward, Dout dout = Dout::float32);

  // The gradient behind a slot, to be added to: float32, zero at first touch; undefined for an empty slot.
  Tensor grad(Context& ctx, const Slot& slot);
  // The gradient of a watched tensor after backward(); zeros if nothing reached it.
  Tensor grad(Context& ctx, const Tensor& tensor);
  // Where one contribution goes, all of it: the caller writes or adds at once. Not wanted for an empty slot.
  backend::Gradient target(Context& ctx, const Slot& slot);
  // The same for several that one kernel writes together, some of which may be views of one gradient.
  template <size_t N>
  std::array<backend::Gradient, N> targets(Context& ctx, const std::array<Slot, N>& slots) {
    std::array<bool, N> alone{};
    for (size_t i = 0; i < N; ++i) alone[i] = separate(slots[i], slots);
    std::array<backend::Gradient, N> found;
    for (size_t i = 0; i < N; ++i)
      found[i] = alone[i] ? target(ctx, slots[i]) : backend::Gradient{grad(ctx, slots[i]), false};
    return found;
  }
  // dout, the gradient of a node, as the contribution to a slot of its shape: its memory changes hands where it can.
  // The last thing that a backward function does with dout.
  void pass_on(Context& ctx, const Slot& slot, const Tensor& dout);

  // work(ctx): a piece of a model that makes one new tensor. Where this was asked for of the tape, nothing in between
  // is kept, and the way back runs it once more: the same numbers in less memory and more time. `work` holds its
  // operands by value.
  static Tensor checkpointed(Context& ctx, const std::function<Tensor(Context&)>& work);

  // Adds dout (out's shape, any floating dtype) to out's gradient and runs everything recorded, last first. Afterwards
  // the tape is empty but for the gradients of the leaves.
  void backward(Context& ctx, const Tensor& out, const Tensor& dout);

 private:
  struct Entry {
    std::shared_ptr<Storage> shape_only;  // as many elements as the tensor's storage, no memory
    std::shared_ptr<Storage> memory;      // made at first touch, or given
    DType dtype = DType::float32;         // of the memory
    bool leaf = false;
    bool half = false;  // may be bfloat16
    bool touched = false;
    // While parts are written one after the other: which. They do not overlap, and the rest is uninitialised.
    std::vector<Tensor> parts;
    Tensor rounded;
    // Slots of a leaf share this owner of `shape_only`, whose end says that no node is left that adds to the gradient.
    mutable std::weak_ptr<Storage> users;
    bool final = false;
  };
  struct Node {
    Slot out;
    uint64_t out_id;
    Backward backward;
    Dout dout;
  };

  Entry& add_entry(const Tensor& tensor, bool leaf);
  Entry& entry_of(const Slot& slot) { return entries_.at(owner_of_slot_.at(slot.view_.storage()->id())); }
  bool separate(const Slot& slot, std::span<const Slot> all) const;
  void forget(size_t first_node, const Tensor& but);
  void fill_gaps(Context& ctx, Entry& entry) const;
  void make_float32(Context& ctx, Entry& entry) const;
  void run_last_node(Context& ctx);
  std::shared_ptr<Storage> user_of(uint64_t id, const Entry& entry) const;
  std::vector<std::shared_ptr<Storage>> users_of_released() const;
  void complete(Context& ctx, uint64_t id, Entry& entry);
  void complete_released(Context& ctx);
  void complete_leaves(Context& ctx);

  std::unordered_map<uint64_t, Entry> entries_;           // by the id of the tensor's storage
  std::unordered_map<uint64_t, uint64_t> owner_of_slot_;  // id of shape_only -> id of the tensor's storage
  std::vector<Node> nodes_;
  bool half_ = false, checkpointing_ = false;
  std::function<void(uint64_t)> when_final_;
  std::shared_ptr<std::vector<uint64_t>> released_;  // leaves whose last user went, in case nobody new came
};

}  // namespace raedit
