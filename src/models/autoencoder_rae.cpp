#include "models/autoencoder_rae.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "backend/device/device.h"
#include "core/check.h"
#include "core/guard.h"
#include "models/packed_cache.h"
#include "models/quantization.h"
#include "ops/elementwise.h"
#include "ops/moving.h"
#include "ops/resample.h"
#include "tensor/memory.h"

namespace raedit {
namespace models {
namespace {

using Role = nn::Parameter::Role;

bool broadcasts(const Shape& from, const Shape& to) {
  if (from.rank() > to.rank()) return false;
  for (int i = 1; i <= from.rank(); ++i)
    if (from[-i] != to[-i] && from[-i] != 1) return false;
  return true;
}

void check_statistics(const std::string& where, const char* key, const Shape& shape, const AutoencoderRAEConfig& c) {
  const Shape latent = c.reshape_to_2d ? Shape{1, c.encoder_hidden_size, c.grid(), c.grid()}
                                       : Shape{1, c.num_patches(), c.encoder_hidden_size};
  RAEDIT_CHECK(broadcasts(shape, latent), {.code = ErrorCode::format,
                                           .what = "latent statistics do not fit the latents",
                                           .where = where + ": " + key,
                                           .found = shape.str(),
                                           .expected = latent.str() + ", or 1 in any of its dimensions"});
}

// How the encoder's names are spelled, from a name that one spelling alone has.
Spelling spelling_of(const std::string& encoder_type, const WeightSet& weights) {
  const auto any = [&](std::string_view start, std::string_view part) {
    return std::ranges::any_of(weights.names(), [&](const std::string& name) {
      return name.starts_with(start) && name.find(part) != std::string::npos;
    });
  };
  if (encoder_type == "mae") return any("encoder.encoder.layer.", "") ? Spelling::classic : Spelling::modern;
  if (encoder_type == "siglip2") return any("encoder.embeddings.", "") ? Spelling::modern : Spelling::classic;
  return any("encoder.encoder.layer.", ".attention.q_proj.") ? Spelling::modern : Spelling::classic;
}

// A part of a name of each encoder that the others do not have.
constexpr std::array<std::pair<const char*, const char*>, 3> kEncoderMarks = {
    {{"dinov2", ".register_tokens"}, {"siglip2", ".position_embedding."}, {"mae", ".layernorm_before."}}};

const std::string* marked_name(const WeightSet& weights, std::string_view mark) {
  for (const std::string& name : weights.names())
    if (name.starts_with("encoder.") && name.find(mark) != std::string::npos) return &name;
  return nullptr;
}

Encoder make_encoder(const AutoencoderRAEConfig& c, Spelling spelling) {
  const int64_t width = c.encoder_hidden_size, patch = c.encoder_patch_size, depth = c.encoder_num_hidden_layers;
  if (c.encoder_type == "mae") return VitMae(width, patch, depth, spelling);
  if (c.encoder_type == "siglip2") return Siglip2(width, patch, depth, spelling);
  return Dinov2WithRegisters(width, patch, depth, spelling);
}

}  // namespace

AutoencoderRaeParameters::AutoencoderRaeParameters(const AutoencoderRAEConfig& c)
    : AutoencoderRaeParameters(c, MemoryWeights("", {})) {}

AutoencoderRaeParameters::AutoencoderRaeParameters(const AutoencoderRAEConfig& c, const WeightSet& weights)
    : encoder(make_encoder(c, spelling_of(c.encoder_type, weights))),
      decoder(c),
      encoder_mean(Role::buffer, {1, 3, 1, 1}),
      encoder_std(Role::buffer, {1, 3, 1, 1}),
      latents_mean(Role::buffer, c.latents_mean_shape),
      latents_std(Role::buffer, c.latents_std_shape) {}

void check_autoencoder_parameters(const AutoencoderRAEConfig& c, const NamedParameters& parameters,
                                  const WeightSet& weights) {
  const auto own = std::ranges::find(kEncoderMarks, c.encoder_type, [](const auto& entry) { return entry.first; });
  for (const auto& [type, mark] : kEncoderMarks) {
    const std::string* name = marked_name(weights, mark);
    if (type == c.encoder_type || name == nullptr || marked_name(weights, own->second) != nullptr) continue;
    raise({.code = ErrorCode::format,
           .what = "the weights are of another encoder: tensor '" + *name + "'",
           .where = weights.file_of(*name),
           .found = type,
           .expected = c.encoder_type + ", as encoder_type in config.json says"});
  }
  check_parameters(parameters, weights);
}

AutoencoderRae::AutoencoderRae(const AutoencoderRAEConfig& c, Json json, std::shared_ptr<const WeightSet> from,
                               const LoadOptions& options, bool without_encoder)
    : config(c),
      config_json(std::move(json)),
      dtype(options.dtype),
      parameters(c, *from),
      weights_(std::move(from)),
      without_encoder_(without_encoder) {
  const WeightSet& weights = *weights_;
  check_statistics(weights.path(), "latents_mean", c.latents_mean_shape, c);
  check_statistics(weights.path(), "latents_std", c.latents_std_shape, c);
  NamedParameters now;
  NamedParameters all = named_parameters(parameters);
  if (without_encoder) std::erase_if(all, [](const auto& entry) { return entry.first.starts_with("encoder."); });
  check_autoencoder_parameters(c, all, weights);
  for (const auto& entry : all) {
    if (entry.first.starts_with("encoder."))
      entry.second->source = weights.contains(entry.first) ? weights.tensor(entry.first) : Tensor();
    else
      now.push_back(entry);
  }
  const auto kernels = loading_kernels(options);
  calibration_check_ = plan_quantization(all, weights, options, kAutoencoderPart);
  cache_ = PackedCache::open(weights, options, *kernels);
  load_parameters(now, weights, dtype, *kernels,
                  cache_ != nullptr && cache_->knows_calibration() ? nullptr : calibration_check_);
  parameters.decoder.complete();
  latents_divisor = parameters.latents_std.value.clone();
  for (int64_t i = 0; i < latents_divisor.numel(); ++i) latents_divisor.data<float>()[i] += 1e-5f;
  latents_divisor = copy_to(latents_divisor, kernels->memory());
  for (nn::Parameter* p :
       {&parameters.encoder_mean, &parameters.encoder_std, &parameters.latents_mean, &parameters.latents_std})
    nn::place(*p, *kernels);
  settle(parameters.decoder, *kernels);
  if (cache_ != nullptr) cache_->finish();
}

const Encoder& AutoencoderRae::ready_encoder(Context& ctx) const {
  RAEDIT_CHECK(!without_encoder_, {.code = ErrorCode::not_found,
                                   .what = "the encoder of this autoencoder is not at hand: it can only decode",
                                   .where = "AutoencoderRAE::encode",
                                   .hint = "bring the encoder's folder, or its name while online"});
  std::call_once(encoder_once_, [&] {
    Encoder encoder = parameters.encoder;
    NamedParameters named;
    nn::for_each_parameter(
        encoder, [&](const std::string& name, nn::Parameter& p) { named.emplace_back(name, &p); }, "encoder");
    // A store is for kernels that load; the context's do other things, too.
    const auto loading = cache_ == nullptr ? nullptr : make_kernels(ctx.device(), ctx.threads());
    const auto cache = loading == nullptr ? nullptr : cache_->open_part("encoder", *loading);
    const backend::Kernels& kernels = loading == nullptr ? ctx.kernels() : *loading;
    load_parameters(named, *weights_, dtype, kernels,
                    cache != nullptr && cache->knows_calibration() ? nullptr : calibration_check_);
    settle(encoder, kernels);
    if (cache != nullptr) cache->finish();
    encoder_ = std::move(encoder);
  });
  return encoder_;
}

Tensor AutoencoderRae::normalize_pixels(Context& ctx, const Tensor& pixels) const {
  Tensor x = ops::cast(ctx, pixels, DType::float32);
  if (x.dim(2) != config.encoder_input_size || x.dim(3) != config.encoder_input_size)
    x = ops::resample(ctx, ops::contiguous(ctx, x), config.encoder_input_size, config.encoder_input_size,
                      ops::Filter::bicubic);
  return ops::div(ctx, ops::sub(ctx, x, parameters.encoder_mean.value), parameters.encoder_std.value);
}

Tensor AutoencoderRae::encode(Context& ctx, const Tensor& pixels) const {
  RAEDIT_CHECK(pixels.defined() && pixels.rank() == 4 && pixels.dim(1) == 3 && pixels.numel() > 0,
               {.code = ErrorCode::invalid_argument,
                .what = "pixels have the wrong shape",
                .where = "AutoencoderRAE::encode",
                .found = pixels.defined() ? pixels.shape().str() : "nothing",
                .expected = "[batch, 3, height, width]"});
  const Tensor images = normalize_pixels(ctx, pixels);
  Tensor z = std::visit([&](const auto& encoder) { return encoder.forward(ctx, images, dtype); }, ready_encoder(ctx));
  if (config.reshape_to_2d) z = z.transpose(1, 2);  // tokens become the pixels of a map
  z = ops::contiguous(ctx, z);
  if (config.reshape_to_2d) z = z.reshape({z.dim(0), z.dim(1), config.grid(), config.grid()});
  z = ops::div(ctx, ops::sub(ctx, z, parameters.latents_mean.value), latents_divisor);
  return config.scaling_factor == 1.0 ? z : ops::scale(ctx, z, static_cast<float>(config.scaling_factor));
}

Tensor AutoencoderRae::decode(Context& ctx, const Tensor& latents) const {
  const int rank = config.reshape_to_2d ? 4 : 3;
  RAEDIT_CHECK(
      latents.defined() && latents.rank() == rank &&
          latents.dim(config.reshape_to_2d ? 1 : 2) == config.encoder_hidden_size && latents.numel() > 0,
      {.code = ErrorCode::invalid_argument,
       .what = "latents have the wrong shape",
       .where = "AutoencoderRAE::decode",
       .found = latents.defined() ? latents.shape().str() : "nothing",
       .expected = config.reshape_to_2d
                       ? fmt::format("[batch, {}, {}, {}]", config.encoder_hidden_size, config.grid(), config.grid())
                       : fmt::format("[batch, {}, {}]", config.num_patches(), config.encoder_hidden_size)});
  Tensor z = ops::cast(ctx, latents, DType::float32);
  if (config.scaling_factor != 1.0) z = ops::div(ctx, z, Tensor::full({1}, static_cast<float>(config.scaling_factor)));
  z = ops::add(ctx, ops::mul(ctx, z, latents_divisor), parameters.latents_mean.value);
  if (config.reshape_to_2d) z = z.reshape({z.dim(0), z.dim(1), z.dim(2) * z.dim(3)}).transpose(1, 2);
  const Tensor tokens = ops::cast(ctx, ops::contiguous(ctx, z), dtype);
  const Tensor pixels = ops::cast(ctx, parameters.decoder.forward(ctx, tokens), DType::float32);
  return ops::add(ctx, ops::mul(ctx, pixels, parameters.encoder_std.value), parameters.encoder_mean.value);
}

}  // namespace models

namespace {

// Runs `fn` on one picture at a time and joins the results.
template <class Fn>
Tensor one_by_one(Context& ctx, const Tensor& x, const Fn& fn) {
  std::vector<Tensor> parts;
  for (int64_t i = 0; i < x.dim(0); ++i) parts.push_back(fn(x.slice(0, i, i + 1)));
  return ops::concat(ctx, parts, 0);
}

bool has_batch(const Tensor& x) {
  return x.defined() && x.rank() > 0 && x.dim(0) > 1;
}

}  // namespace

AutoencoderRAE AutoencoderRAE::from_pretrained(const std::string& folder, const LoadOptions& options) {
  return guarded("AutoencoderRAE::from_pretrained", [&] {
    models::check_dtype(options, folder);
    return from_source(models::open_model(folder, "AutoencoderRAE", options), options);
  });
}

AutoencoderRAE AutoencoderRAE::from_source(const models::ModelSource& source, const LoadOptions& options) {
  return guarded("AutoencoderRAE::from_source", [&] {
    models::check_dtype(options, source.where);
    const auto config = models::parse_autoencoder_rae_config(source.config, source.where);
    return AutoencoderRAE(std::make_shared<models::AutoencoderRae>(config, source.config, source.weights, options,
                                                                   source.without_encoder));
  });
}

void AutoencoderRAE::save_pretrained(const std::string& folder, const SaveOptions& options) const {
  guarded("AutoencoderRAE::save_pretrained", [&] {
    models::AutoencoderRaeParameters copy = model_->parameters;  // tensors are shared
    models::save_model(folder, model_->config_json, models::named_parameters(copy), dtype(), options);
  });
}

const AutoencoderRAEConfig& AutoencoderRAE::config() const {
  return model_->config;
}
DType AutoencoderRAE::dtype() const {
  return model_->dtype;
}
int64_t AutoencoderRAE::num_parameters() const {
  return models::count_parameters(model_->parameters);
}

Tensor AutoencoderRAE::encode(Context& ctx, const Tensor& pixels) const {
  return guarded("AutoencoderRAE::encode", [&] {
    if (use_slicing_ && has_batch(pixels))
      return one_by_one(ctx, pixels, [&](const Tensor& x) { return model_->encode(ctx, x); });
    return model_->encode(ctx, pixels);
  });
}

Tensor AutoencoderRAE::decode(Context& ctx, const Tensor& latents) const {
  return guarded("AutoencoderRAE::decode", [&] {
    if (use_slicing_ && has_batch(latents))
      return one_by_one(ctx, latents, [&](const Tensor& z) { return model_->decode(ctx, z); });
    return model_->decode(ctx, latents);
  });
}

}  // namespace raedit
