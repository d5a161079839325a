// RAEDiT2DModel: the two-stream diffusion transformer of "Diffusion Transformers with Representation Autoencoders"
// (Zheng et al., 2510.11690), as in diffusers' models/transformers/transformer_rae_dit.py.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "raedit/context.h"
#include "raedit/export.h"
#include "raedit/pretrained.h"
#include "raedit/tensor.h"

namespace raedit {

namespace models {
struct RaeDitTransformer;
struct ModelSource;
struct Internals;
}  // namespace models

// The fields of config.json. Pairs are (encoder stream, decoder stream).
struct RAEDiT2DModelConfig {
  int64_t sample_size = 16;  // side of the square latent
  std::array<int64_t, 2> patch_size = {1, 1};
  int64_t in_channels = 768;
  std::array<int64_t, 2> hidden_size = {1152, 2048};
  std::array<int64_t, 2> depth = {28, 2};
  std::array<int64_t, 2> num_heads = {16, 16};
  double mlp_ratio = 4.0;
  double class_dropout_prob = 0.1;  // above 0 there is one more class, the null class num_classes
  int64_t num_classes = 1000;
  bool use_qknorm = false;
  bool use_swiglu = true;
  bool use_rope = true;
  bool use_rmsnorm = true;
  bool wo_shift = false;
  bool use_pos_embed = true;

  bool has_null_class() const { return class_dropout_prob > 0; }
  // Reads a config.json. Throws Error(format) naming the key for unknown keys, wrong types and values out of range.
  RAEDIT_API static RAEDiT2DModelConfig from_file(const std::string& path);
};

// Sees intermediate results by name: "timestep_embedding" [B,D], "block.<k>" [B,N,D], "conditioning_hidden_states"
// [B,N,D].
using ForwardObserver = std::function<void(const std::string& name, const Tensor& value)>;

// What a model makes of times and labels alone, one row per picture: may be made for many steps ahead of the latents.
struct RAEDiTConditioning {
  Tensor time;         // [B,D], the embedding of the time
  Tensor activated;    // [B,1,D], what every adaLN of the encoder stream reads
  Tensor modulations;  // [B,1,depth*6D], what they make of it; undefined where each block computes its own

  // Rows [begin, end).
  RAEDIT_API RAEDiTConditioning slice(int64_t begin, int64_t end) const;
};

// A handle; copies share the weights, which never change. Safe to use from many threads, each with its own Context.
class RAEDIT_API RAEDiT2DModel {
 public:
  // FOLDER/config.json and its weights. Throws Error naming the tensor when one is missing, extra or misshapen.
  static RAEDiT2DModel from_pretrained(const std::string& folder, const LoadOptions& options = {});
  // The same from a config and tensors that lie elsewhere: a checkpoint under translated names
  // (src/models/checkpoint.h).
  static RAEDiT2DModel from_source(const models::ModelSource& source, const LoadOptions& options = {});
  // config.json and weights in dtype(); buffers stay as they were loaded.
  void save_pretrained(const std::string& folder, const SaveOptions& options = {}) const;

  const RAEDiT2DModelConfig& config() const;
  DType dtype() const;
  int64_t num_parameters() const;  // buffers not counted

  // The velocity noise - data at time `timestep` (1 is pure noise, 0 is data).
  // hidden_states [B,C,S,S]; timestep [B] float32; class_labels [B] int64, num_classes for the null class.
  // conditioning_hidden_states [B,N,D]: what an earlier call's observer saw; given, the encoder stream is skipped.
  // Returns [B,C,S,S] in dtype(). Throws Error(invalid_argument) for wrong shapes and class ids out of range.
  Tensor forward(Context& ctx, const Tensor& hidden_states, const Tensor& timestep, const Tensor& class_labels,
                 const Tensor& conditioning_hidden_states = {}, const ForwardObserver& observe = {}) const;

  // The same in two halves: forward(ctx, x, condition(ctx, t, y)) is forward(ctx, x, t, y).
  RAEDiTConditioning condition(Context& ctx, const Tensor& timestep, const Tensor& class_labels) const;
  Tensor forward(Context& ctx, const Tensor& hidden_states, const RAEDiTConditioning& conditioning) const;

  // The two streams one by one, for tokens that serve several steps of sampling (encoder sharing, Wang et al.,
  // 2504.05741): decoder_stream(ctx, x, encoder_stream(ctx, x, condition(ctx, t, y)), t) is forward(ctx, x, t, y).
  // Tokens are [B,N,D] in dtype(), as the last encoder block leaves them: the time, the decoder's own, is not in them.
  Tensor encoder_stream(Context& ctx, const Tensor& hidden_states, const RAEDiTConditioning& conditioning,
                        const ForwardObserver& observe = {}) const;
  Tensor decoder_stream(Context& ctx, const Tensor& hidden_states, const Tensor& tokens, const Tensor& timestep,
                        const ForwardObserver& observe = {}) const;

 private:
  friend struct models::Internals;
  explicit RAEDiT2DModel(std::shared_ptr<const models::RaeDitTransformer> model) : model_(std::move(model)) {}
  std::shared_ptr<const models::RaeDitTransformer> model_;
};

}  // namespace raedit
