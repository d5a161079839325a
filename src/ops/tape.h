// Tape: how training goes back. An op that runs with a tape records one function that adds to the gradients of its
// inputs; nothing is recorded at inference.
//
// Gradients are float32 and belong to storages, not to tensors: a view (slice, reshape, transpose, broadcast) of a
// tensor has the same view of the gradient, so views need no rule of their own. A slot names a gradient without keeping
// the tensor's numbers alive; an op keeps only the operands that it captures.
#pragma once

#include <functional>
#include <initializer_list>
#include <unordered_map>
#include <vector>

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

  // A leaf (a parameter or an input) whose gradient is wanted.
  void watch(const Tensor& leaf);
  bool wants(const Tensor& tensor) const;

  // The tape to record on, or null: none is set, or no operand wants a gradient. Undefined operands are skipped.
  static Tape* recording(const Context& ctx, std::initializer_list<const Tensor*> operands);
  Slot slot(const Tensor& tensor) const;
  // `out` must be fresh and contiguous. `backward` runs once, in reverse order of recording, with the gradient of out.
  void record(const Tensor& out, Backward backward);

  // The gradient behind a slot, zero at first touch; undefined for an empty slot.
  Tensor grad(Context& ctx, const Slot& slot);
  // The gradient of a watched tensor after backward(); zeros if nothing reached it.
  Tensor grad(Context& ctx, const Tensor& tensor);

  // Adds dout (out's shape, any floating dtype) to out's gradient and runs everything recorded, last first. Afterwards
  // the tape is empty but for the gradients of the leaves.
  void backward(Context& ctx, const Tensor& out, const Tensor& dout);

 private:
  struct Entry {
    std::shared_ptr<Storage> shape_only;  // as many elements as the tensor's storage, no memory
    std::shared_ptr<Storage> memory;      // made at first touch
    bool leaf = false;
  };
  struct Node {
    Slot out;
    uint64_t out_id;
    Backward backward;
  };

  void add_entry(const Tensor& tensor, bool leaf);

  std::unordered_map<uint64_t, Entry> entries_;           // by the id of the tensor's storage
  std::unordered_map<uint64_t, uint64_t> owner_of_slot_;  // id of shape_only -> id of the tensor's storage
  std::vector<Node> nodes_;
};

}  // namespace raedit
