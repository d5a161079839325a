// Parameter: one tensor of a checkpoint, and how a module lists its own.
//
// A module is a struct that lists its members once, under the names of the diffusers checkpoint:
//
//   template <class Self, class Visit>
//   static void each_param(Self& self, Visit&& visit) {
//     visit("norm1", self.norm1);
//     visit("blocks", self.blocks);  // a std::vector of modules: blocks.0, blocks.1, ...
//   }
//
// for_each_parameter() walks that list. Loading, saving, counting, the optimizer and EMA all use it.
#pragma once

#include <concepts>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "ops/linear.h"
#include "raedit/context.h"
#include "raedit/tensor.h"

namespace raedit::nn {

struct Parameter {
  enum class Role {
    matrix,  // read by linear(): [N,...] seen as [N,K], packed for the device
    vector,  // biases, norm weights, tokens: small, kept as float32 (rounded to bfloat16 first in a bfloat16 model)
    table,   // rows are looked up: kept in the checkpoint's own type
    buffer,  // not trained: kept as float32 whatever the model's dtype
    unread,  // no forward reads it: only checked, and saved again
  };

  Role role = Role::vector;
  Shape shape;
  bool required = true;  // false: may be missing from the checkpoint, and value stays undefined
  // Its module packs it together with others, where the device joins matrices: see prepare().
  bool joined = false;
  bool swiglu = false;     // the matrix of a linear_swiglu()
  bool trainable = false;  // make_trainable() was here
  // A matrix of a block, which LoadOptions::quantization is about; whether it was asked for; and the largest magnitudes
  // of its inputs [K], where there is a calibration.
  bool quantizable = false, eight_bits = false;
  Tensor input_max;

  // What ops read. For matrices `packed` is what they read, `value` what training would.
  Tensor value;
  std::shared_ptr<const backend::PackedMatrix> packed;
  // The checkpoint's own tensor, usually in a mapped file: what is saved again.
  Tensor source;

  Parameter() = default;
  Parameter(Role r, Shape s, bool is_required = true) : role(r), shape(std::move(s)), required(is_required) {}

  bool defined() const { return value.defined(); }
  bool trained() const { return role != Role::buffer; }
  ops::Matrix matrix() const { return {value, packed}; }
  // Tells the context's observer what meets this matrix.
  void see(const Context& ctx, const Tensor& input) const {
    if (quantizable && ctx.input_observer()) ctx.input_observer()(*this, input);
  }
};

// `weight` as a product with `matrix` reads it: in 8 bits where those were asked for.
std::shared_ptr<const backend::PackedMatrix> pack_like(const Parameter& matrix, const Tensor& weight, DType dtype,
                                                       const backend::Kernels& kernels);

// Takes over a checkpoint's tensor: converts or packs it once, for `dtype` on this device. The shape is checked
// already.
void assign(Parameter& parameter, const Tensor& source, DType dtype, const backend::Kernels& kernels);

// Moves what ops read to the device's memory, where it has its own. Once all tables are there, computed ones included.
void place(Parameter& parameter, const backend::Kernels& kernels);

// Gives the parameter float32 numbers of its own, which an optimizer may change, in place of what is packed for
// inference; they stay in the memory of the device. They become what is saved, too. It must have been assigned; buffers
// are not trained.
void make_trainable(Parameter& parameter, const backend::Kernels& kernels);

template <class T>
concept Module = requires(T& module) {
  std::remove_const_t<T>::each_param(module, [](const std::string&, auto&) {});
};

// Calls fn(name, parameter) for every parameter below `node`: a Parameter, a module, a vector, an optional or a variant
// of them.
template <class Node, class Fn>
void for_each_parameter(Node& node, Fn&& fn, const std::string& prefix = "") {
  if constexpr (std::same_as<std::remove_const_t<Node>, Parameter>) {
    fn(prefix, node);
  } else if constexpr (Module<Node>) {
    std::remove_const_t<Node>::each_param(node, [&](const std::string& name, auto& member) {
      for_each_parameter(member, fn, prefix.empty() ? name : prefix + "." + name);
    });
  } else if constexpr (requires { node.has_value(); }) {
    if (node.has_value()) for_each_parameter(*node, fn, prefix);
  } else if constexpr (requires { std::variant_size<std::remove_const_t<Node>>::value; }) {
    std::visit([&](auto& held) { for_each_parameter(held, fn, prefix); }, node);
  } else {
    for (size_t i = 0; i < node.size(); ++i) for_each_parameter(node[i], fn, prefix + "." + std::to_string(i));
  }
}

// All matrices of `module` are ones that 8 bits are enough for.
template <class M>
void allow_eight_bits(M& module) {
  for_each_parameter(module, [](const std::string&, Parameter& p) {
    if (p.role == Parameter::Role::matrix) p.quantizable = true;
  });
}

// Calls node.prepare(kernels) for every module below `node` that has one, after its parameters were assigned.
template <class Node>
void prepare(Node& node, const backend::Kernels& kernels) {
  if constexpr (std::same_as<Node, Parameter>) {
    return;
  } else if constexpr (Module<Node>) {
    if constexpr (requires { node.prepare(kernels); }) node.prepare(kernels);
    Node::each_param(node, [&](const std::string&, auto& member) { prepare(member, kernels); });
  } else if constexpr (requires { node.has_value(); }) {
    if (node.has_value()) prepare(*node, kernels);
  } else if constexpr (requires { std::variant_size<Node>::value; }) {
    std::visit([&](auto& held) { prepare(held, kernels); }, node);
  } else {
    for (auto& member : node) prepare(member, kernels);
  }
}

}  // namespace raedit::nn
