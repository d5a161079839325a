#include "models/rae_dit_transformer.h"

#include <fmt/format.h>

#include <cmath>

#include "core/check.h"
#include "core/guard.h"
#include "models/checkpoint.h"
#include "models/packed_cache.h"
#include "models/quantization.h"
#include "ops/activation.h"
#include "ops/elementwise.h"
#include "ops/gated.h"
#include "ops/linear.h"
#include "ops/moving.h"
#include "ops/tape.h"
#include "tensor/memory.h"

namespace raedit {
namespace models {
namespace {

constexpr float kNormEps = 1e-6f;
constexpr size_t kEncoder = 0;
constexpr size_t kDecoder = 1;

nn::Norm block_norm(const RAEDiT2DModelConfig& config, int64_t width) {
  return config.use_rmsnorm ? nn::Norm::rms(width, kNormEps) : nn::Norm::layer(width, kNormEps, false);
}

// Tokens along an edge.
int64_t side(const RAEDiT2DModelConfig& config, size_t stream) {
  return config.sample_size / config.patch_size[stream];
}

int64_t tokens(const RAEDiT2DModelConfig& config, size_t stream) {
  return side(config, stream) * side(config, stream);
}

// The side of a square grid, or 0.
int64_t square_side(int64_t count) {
  const auto root = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(count))));
  return root * root == count ? root : 0;
}

void see(const ForwardObserver& observe, const std::string& name, const Tensor& value) {
  if (observe) observe(name, value);
}

// Modulation vectors one after another in the last dimension, handed out in order.
class Modulation {
 public:
  Modulation(Tensor all, int64_t width) : all_(std::move(all)), width_(width) {}
  Tensor next() {
    at_ += width_;
    return all_.slice(2, at_ - width_, at_);
  }

 private:
  Tensor all_;
  int64_t width_;
  int64_t at_ = 0;
};

}  // namespace

Tensor expand_conditioning_tokens(Context& ctx, const Tensor& x, int64_t count) {
  const int64_t batch = x.dim(0), m = x.dim(1), width = x.dim(2);
  if (m == count || m == 1) return x;
  const int64_t from = square_side(m);
  const int64_t to = square_side(count);
  RAEDIT_CHECK(from > 0 && to > 0 && (to % from == 0 || from % to == 0),
               {.code = ErrorCode::invalid_argument,
                .what = "condition tokens cannot be mapped onto the grid of the decoder stream",
                .where = "conditioning_hidden_states",
                .found = fmt::format("{} tokens", m),
                .expected = fmt::format("a square grid whose side divides or is divided by that of {} tokens", count)});
  if (to % from == 0) {
    const int64_t factor = to / from;
    const Tensor grid = ops::contiguous(ctx, x).reshape({batch, from, 1, from, 1, width});
    return ops::contiguous(ctx, grid.expand({batch, from, factor, from, factor, width})).reshape({batch, count, width});
  }
  const int64_t factor = from / to;
  const Tensor grid = ops::contiguous(ctx, x).reshape({batch, to, factor, to, factor, width});
  Tensor sum;
  for (int64_t i = 0; i < factor; ++i) {
    for (int64_t j = 0; j < factor; ++j) {
      const Tensor part = grid.select(2, i).select(3, j);
      sum = sum.defined() ? ops::add(ctx, sum, part) : part;
    }
  }
  return ops::scale(ctx, sum, 1.0f / static_cast<float>(factor * factor)).reshape({batch, count, width});
}

RaeDitBlock::RaeDitBlock(const RAEDiT2DModelConfig& config, size_t stream) : with_shift(!config.wo_shift) {
  const int64_t width = config.hidden_size[stream];
  const auto hidden = static_cast<int64_t>(static_cast<double>(width) * config.mlp_ratio);
  const int64_t inner = config.use_swiglu ? 2 * hidden / 3 : hidden;
  norm1 = block_norm(config, width);
  norm2 = block_norm(config, width);
  attn = nn::Attention(width, config.num_heads[stream]);
  if (config.use_qknorm) {
    const int64_t head = width / config.num_heads[stream];
    attn.q_norm = config.use_rmsnorm ? nn::Norm::rms(head, kNormEps) : nn::Norm::layer(head, kNormEps, true);
    attn.k_norm = attn.q_norm;
  }
  mlp = nn::FeedForward(width, inner, config.use_swiglu);
  ada_ln = nn::Linear(width, (with_shift ? 6 : 4) * width);
  nn::allow_eight_bits(*this);
}

Tensor RaeDitBlock::forward(Context& ctx, const Tensor& x, const Tensor& modulation, const nn::Rope* rope) const {
  Modulation parts(expand_conditioning_tokens(ctx, modulation, x.dim(1)), x.dim(2));

  // Read in the order of the checkpoint: shift, scale, gate of the attention, then of the feed-forward.
  const Tensor shift_msa = with_shift ? parts.next() : Tensor();
  const Tensor scale_msa = parts.next();
  const Tensor gate_msa = parts.next();
  const Tensor h = norm1.modulated(ctx, x, shift_msa, scale_msa);
  const Tensor attended = attn.forward(ctx, h, rope);

  const Tensor shift_mlp = with_shift ? parts.next() : Tensor();
  const Tensor scale_mlp = parts.next();
  const Tensor gate_mlp = parts.next();
  const auto [sum, normed] = norm2.after_branch(ctx, x, attended, gate_msa, shift_mlp, scale_mlp);
  return ops::add_gated(ctx, sum, mlp.forward(ctx, normed), gate_mlp);
}

RaeDitFinalLayer::RaeDitFinalLayer(const RAEDiT2DModelConfig& config) {
  const int64_t width = config.hidden_size[kDecoder];
  const int64_t patch = config.patch_size[kDecoder];
  norm_final = block_norm(config, width);
  linear = nn::Linear(width, patch * patch * config.in_channels);
  ada_ln = nn::Linear(width, 2 * width);
}

Tensor RaeDitFinalLayer::forward(Context& ctx, const Tensor& x, const Tensor& activated) const {
  const Tensor modulation = ada_ln.forward(ctx, activated);
  Modulation parts(expand_conditioning_tokens(ctx, modulation, x.dim(1)), x.dim(2));
  const Tensor shift = parts.next();
  const Tensor scale = parts.next();
  return linear.forward(ctx, norm_final.modulated(ctx, x, shift, scale));
}

RaeDitTransformer::RaeDitTransformer(const RAEDiT2DModelConfig& c)
    : config(c),
      s_embedder(c.in_channels, c.hidden_size[kEncoder], c.patch_size[kEncoder]),
      x_embedder(c.in_channels, c.hidden_size[kDecoder], c.patch_size[kDecoder]),
      t_embedder(c.hidden_size[kEncoder]),
      y_embedder(c.num_classes, c.hidden_size[kEncoder], c.has_null_class()),
      pos_embed(nn::Parameter::Role::buffer, {1, tokens(c, kEncoder), c.hidden_size[kEncoder]}, false),
      final_layer(c) {
  if (c.hidden_size[kEncoder] != c.hidden_size[kDecoder])
    s_projector = nn::Linear(c.hidden_size[kEncoder], c.hidden_size[kDecoder]);
  if (c.use_rope) {
    enc_feat_rope = nn::Rope(side(c, kEncoder), c.hidden_size[kEncoder] / c.num_heads[kEncoder]);
    dec_feat_rope = nn::Rope(side(c, kDecoder), c.hidden_size[kDecoder] / c.num_heads[kDecoder]);
  }
  for (size_t stream : {kEncoder, kDecoder})
    for (int64_t i = 0; i < c.depth[stream]; ++i) {
      blocks.emplace_back(c, stream);
      blocks.back().ada_ln.weight.joined = stream == kEncoder;
    }
}

void RaeDitTransformer::complete() {
  if (config.use_pos_embed && !pos_embed.defined()) {
    pos_embed.value =
        nn::sincos_pos_embed_2d(config.hidden_size[kEncoder], side(config, kEncoder), false).reshape(pos_embed.shape);
    pos_embed.source = pos_embed.value;  // diffusers wants it in the checkpoint
  }
  if (enc_feat_rope) enc_feat_rope->complete();
  if (dec_feat_rope) dec_feat_rope->complete();
}

void RaeDitTransformer::prepare(const backend::Kernels& kernels) {
  const auto depth = static_cast<size_t>(config.depth[kEncoder]);
  if (!kernels.joins() || depth == 0) return;
  const nn::Linear& first = blocks.front().ada_ln;
  const int64_t rows = first.weight.shape[0];
  const auto count = static_cast<int64_t>(depth);
  const Tensor weight = Tensor::empty({count * rows, first.weight.shape[1]}, first.weight.value.dtype());
  const Tensor bias = Tensor::empty({count * rows}, DType::float32);
  for (int64_t i = 0; i < count; ++i) {
    const nn::Linear& part = blocks[static_cast<size_t>(i)].ada_ln;
    weight.slice(0, i * rows, (i + 1) * rows).copy_from(part.weight.value);
    bias.slice(0, i * rows, (i + 1) * rows).copy_from(part.bias.value);
  }
  encoder_ada_ln = nn::pack_like(first.weight, weight, dtype, kernels);
  encoder_ada_ln_bias = copy_to(bias, kernels.memory());
}

namespace {

void check_shape(const char* name, const Tensor& t, const Shape& expected) {
  RAEDIT_CHECK(t.defined() && t.shape() == expected, {.code = ErrorCode::invalid_argument,
                                                      .what = std::string(name) + " has the wrong shape",
                                                      .where = "RAEDiT2DModel",
                                                      .found = t.defined() ? t.shape().str() : "nothing",
                                                      .expected = expected.str()});
}

int64_t batch_of(const Tensor& t) {
  return t.defined() && t.rank() > 0 ? t.dim(0) : 0;
}

}  // namespace

void RaeDitTransformer::check_latents(const Tensor& hidden_states, const Tensor& conditioning_hidden_states) const {
  const int64_t batch = batch_of(hidden_states);
  check_shape("hidden_states", hidden_states, {batch, config.in_channels, config.sample_size, config.sample_size});
  if (!conditioning_hidden_states.defined()) return;
  const int64_t count = conditioning_hidden_states.rank() == 3 ? conditioning_hidden_states.dim(1) : 1;
  check_shape("conditioning_hidden_states", conditioning_hidden_states, {batch, count, config.hidden_size[kEncoder]});
}

void RaeDitTransformer::check_conditioning(const Tensor& hidden_states, const RAEDiTConditioning& conditioning) const {
  check_shape("conditioning.time", conditioning.time, {hidden_states.dim(0), config.hidden_size[kEncoder]});
}

void RaeDitTransformer::check_condition(int64_t batch, const Tensor& timestep, const Tensor& class_labels) const {
  check_shape("timestep", timestep, {batch});
  check_shape("class_labels", class_labels, {batch});
  RAEDIT_CHECK(class_labels.dtype() == DType::int64, {.code = ErrorCode::invalid_argument,
                                                      .what = "class_labels have the wrong type",
                                                      .where = "RAEDiT2DModel",
                                                      .found = std::string(name_of(class_labels.dtype())),
                                                      .expected = "int64"});
  if (!class_labels.on_host()) return;  // whoever brought them to the device has looked at them
  const int64_t most = config.num_classes - 1 + (config.has_null_class() ? 1 : 0);
  for (const int64_t label : class_labels.to_vector<int64_t>())
    RAEDIT_CHECK(label >= 0 && label <= most, {.code = ErrorCode::invalid_argument,
                                               .what = "class id is out of range",
                                               .where = "class_labels",
                                               .found = fmt::to_string(label),
                                               .expected = fmt::format("0 to {}", most)});
}

RAEDiTConditioning RaeDitTransformer::condition(Context& ctx, const Tensor& timestep,
                                                const Tensor& class_labels) const {
  check_condition(batch_of(timestep), timestep, class_labels);
  RAEDiTConditioning c;
  c.time = t_embedder.forward(ctx, timestep.to(DType::float32), dtype);
  const Tensor label = y_embedder.forward(ctx, class_labels, dtype);
  // SiLU here and again in every adaLN: so the model was trained.
  const Tensor condition = ops::silu(ctx, ops::add(ctx, c.time, label));
  c.activated = ops::silu(ctx, condition).reshape({c.time.dim(0), 1, c.time.dim(1)});
  if (encoder_ada_ln != nullptr && !blocks.front().ada_ln.weight.trainable) {
    for (int64_t i = 0; i < config.depth[kEncoder]; ++i)
      blocks[static_cast<size_t>(i)].ada_ln.weight.see(ctx, c.activated);
    c.modulations = ops::linear(ctx, c.activated, {Tensor(), encoder_ada_ln}, encoder_ada_ln_bias);
  }
  return c;
}

RAEDiTConditioning RaeDitTransformer::condition_all(Context& ctx, const Tensor& timestep,
                                                    const Tensor& class_labels) const {
  RAEDiTConditioning c = condition(ctx, timestep, class_labels);
  const int64_t depth = config.depth[kEncoder];
  if (c.modulations.defined() || depth == 0 || ctx.tape() != nullptr) return c;
  const int64_t width = blocks.front().ada_ln.weight.shape[0];
  c.modulations = ctx.empty({c.activated.dim(0), 1, depth * width}, c.activated.dtype());
  for (int64_t i = 0; i < depth; ++i)
    ctx.kernels().copy(blocks[static_cast<size_t>(i)].ada_ln.forward(ctx, c.activated),
                       c.modulations.slice(2, i * width, (i + 1) * width));
  return c;
}

Tensor RaeDitTransformer::encode(Context& ctx, const Tensor& latents, const RAEDiTConditioning& conditioning,
                                 const ForwardObserver& observe) const {
  Tensor s = s_embedder.forward(ctx, latents);
  if (config.use_pos_embed) s = ops::add(ctx, s, pos_embed.value);
  const nn::Rope* rope = enc_feat_rope ? &*enc_feat_rope : nullptr;
  for (int64_t i = 0; i < config.depth[kEncoder]; ++i) {
    const RaeDitBlock& block = blocks[static_cast<size_t>(i)];
    const int64_t width = block.ada_ln.weight.shape[0];
    const Tensor modulation = conditioning.modulations.defined()
                                  ? conditioning.modulations.slice(2, i * width, (i + 1) * width)
                                  : block.ada_ln.forward(ctx, conditioning.activated);
    s = Tape::checkpointed(ctx,
                           [&block, s, modulation, rope](Context& c) { return block.forward(c, s, modulation, rope); });
    if (observe) observe(fmt::format("block.{}", i), s);
  }
  return s;
}

namespace {

// What the decoder stream is conditioned on. The class is not added again, only the time.
Tensor with_time(Context& ctx, const Tensor& tokens, const Tensor& time) {
  return ops::silu(ctx, ops::add(ctx, tokens, time.reshape({time.dim(0), 1, time.dim(1)})));
}

}  // namespace

Tensor RaeDitTransformer::decode(Context& ctx, const Tensor& latents, Tensor s, const ForwardObserver& observe) const {
  see(observe, "conditioning_hidden_states", s);
  if (s_projector) s = s_projector->forward(ctx, s);

  Tensor x = x_embedder.forward(ctx, latents);
  const nn::Rope* rope = dec_feat_rope ? &*dec_feat_rope : nullptr;
  const Tensor activated = ops::activation(ctx, s, ops::Activation::silu, true);
  for (auto i = static_cast<size_t>(config.depth[kEncoder]); i < blocks.size(); ++i) {
    x = Tape::checkpointed(ctx, [&block = blocks[i], x, activated, rope](Context& c) {
      return block.forward(c, x, block.ada_ln.forward(c, activated), rope);
    });
    if (observe) observe(fmt::format("block.{}", i), x);
  }
  x = final_layer.forward(ctx, x, activated);
  return ops::unpatchify(ctx, x, side(config, kDecoder), side(config, kDecoder), config.patch_size[kDecoder]);
}

Tensor RaeDitTransformer::forward(Context& ctx, const Tensor& hidden_states, const Tensor& timestep,
                                  const Tensor& class_labels, const Tensor& conditioning_hidden_states,
                                  const ForwardObserver& observe) const {
  check_latents(hidden_states, conditioning_hidden_states);
  check_condition(hidden_states.dim(0), timestep, class_labels);
  return forward(ctx, hidden_states, condition(ctx, timestep, class_labels), conditioning_hidden_states, observe);
}

Tensor RaeDitTransformer::forward(Context& ctx, const Tensor& hidden_states, const RAEDiTConditioning& conditioning,
                                  const Tensor& conditioning_hidden_states, const ForwardObserver& observe) const {
  check_latents(hidden_states, conditioning_hidden_states);
  check_conditioning(hidden_states, conditioning);
  const Tensor latents = ops::cast(ctx, hidden_states, dtype);
  see(observe, "timestep_embedding", conditioning.time);
  const Tensor s = conditioning_hidden_states.defined()
                       ? ops::cast(ctx, conditioning_hidden_states, dtype)
                       : with_time(ctx, encode(ctx, latents, conditioning, observe), conditioning.time);
  return decode(ctx, latents, s, observe);
}

Tensor RaeDitTransformer::encoder_stream(Context& ctx, const Tensor& hidden_states,
                                         const RAEDiTConditioning& conditioning, const ForwardObserver& observe) const {
  check_latents(hidden_states, Tensor());
  check_conditioning(hidden_states, conditioning);
  return encode(ctx, ops::cast(ctx, hidden_states, dtype), conditioning, observe);
}

Tensor RaeDitTransformer::decoder_stream(Context& ctx, const Tensor& hidden_states, const Tensor& encoder_tokens,
                                         const Tensor& timestep, const ForwardObserver& observe) const {
  check_latents(hidden_states, Tensor());
  const int64_t batch = hidden_states.dim(0);
  check_shape("tokens", encoder_tokens, {batch, tokens(config, kEncoder), config.hidden_size[kEncoder]});
  check_shape("timestep", timestep, {batch});
  const Tensor time = t_embedder.forward(ctx, timestep.to(DType::float32), dtype);
  see(observe, "timestep_embedding", time);
  const Tensor s = with_time(ctx, ops::cast(ctx, encoder_tokens, dtype), time);
  return decode(ctx, ops::cast(ctx, hidden_states, dtype), s, observe);
}

}  // namespace models

RAEDiT2DModel RAEDiT2DModel::from_pretrained(const std::string& folder, const LoadOptions& options) {
  return guarded("RAEDiT2DModel::from_pretrained", [&] {
    models::check_dtype(options, folder);
    return from_source(models::open_model(folder, "RAEDiT2DModel", options), options);
  });
}

RAEDiT2DModel RAEDiT2DModel::from_source(const models::ModelSource& source, const LoadOptions& options) {
  return guarded("RAEDiT2DModel::from_source", [&] {
    models::check_dtype(options, source.where);
    const auto config = models::parse_rae_dit_config(source.config, source.where);
    auto model = std::make_shared<models::RaeDitTransformer>(config);
    model->config_json = source.config;
    model->dtype = options.dtype;
    const auto parameters = models::named_parameters(*model);
    models::check_parameters(parameters, *source.weights);
    const auto kernels = models::loading_kernels(options);
    const auto check = models::plan_quantization(parameters, *source.weights, options, models::kTransformerPart);
    const auto cache = models::PackedCache::open(*source.weights, options, *kernels);
    models::load_parameters(parameters, *source.weights, options.dtype, *kernels,
                            cache != nullptr && cache->knows_calibration() ? nullptr : check);
    model->complete();
    models::settle(*model, *kernels);
    if (cache != nullptr) cache->finish();
    return RAEDiT2DModel(std::move(model));
  });
}

void RAEDiT2DModel::save_pretrained(const std::string& folder, const SaveOptions& options) const {
  guarded("RAEDiT2DModel::save_pretrained", [&] {
    models::RaeDitTransformer copy = *model_;  // tensors are shared
    models::save_model(folder, model_->config_json, models::named_parameters(copy), dtype(), options);
  });
}

const RAEDiT2DModelConfig& RAEDiT2DModel::config() const {
  return model_->config;
}
DType RAEDiT2DModel::dtype() const {
  return model_->dtype;
}
int64_t RAEDiT2DModel::num_parameters() const {
  return models::count_parameters(*model_);
}

Tensor RAEDiT2DModel::forward(Context& ctx, const Tensor& hidden_states, const Tensor& timestep,
                              const Tensor& class_labels, const Tensor& conditioning_hidden_states,
                              const ForwardObserver& observe) const {
  return guarded("RAEDiT2DModel::forward", [&] {
    return model_->forward(ctx, hidden_states, timestep, class_labels, conditioning_hidden_states, observe);
  });
}

RAEDiTConditioning RAEDiT2DModel::condition(Context& ctx, const Tensor& timestep, const Tensor& class_labels) const {
  return guarded("RAEDiT2DModel::condition", [&] { return model_->condition_all(ctx, timestep, class_labels); });
}

Tensor RAEDiT2DModel::forward(Context& ctx, const Tensor& hidden_states, const RAEDiTConditioning& conditioning) const {
  return guarded("RAEDiT2DModel::forward",
                 [&] { return model_->forward(ctx, hidden_states, conditioning, Tensor(), {}); });
}

Tensor RAEDiT2DModel::encoder_stream(Context& ctx, const Tensor& hidden_states, const RAEDiTConditioning& conditioning,
                                     const ForwardObserver& observe) const {
  return guarded("RAEDiT2DModel::encoder_stream",
                 [&] { return model_->encoder_stream(ctx, hidden_states, conditioning, observe); });
}

Tensor RAEDiT2DModel::decoder_stream(Context& ctx, const Tensor& hidden_states, const Tensor& tokens,
                                     const Tensor& timestep, const ForwardObserver& observe) const {
  return guarded("RAEDiT2DModel::decoder_stream",
                 [&] { return model_->decoder_stream(ctx, hidden_states, tokens, timestep, observe); });
}

RAEDiTConditioning RAEDiTConditioning::slice(int64_t begin, int64_t end) const {
  const auto rows = [&](const Tensor& t) { return t.defined() ? t.slice(0, begin, end) : t; };
  return {rows(time), rows(activated), rows(modulations)};
}

}  // namespace raedit
