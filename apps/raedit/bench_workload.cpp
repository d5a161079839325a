#include "bench_workload.h"

#include <functional>
#include <memory>

#include "backend/device/device.h"
#include "interrupt.h"
#include "models/workload.h"
#include "open_model.h"
#include "progress_bar.h"
#include "raedit/raedit.h"
#include "transfer.h"

namespace raedit::cli {
namespace {

Json config_json(const RAEDiT2DModelConfig& c) {
  return {{"sample_size", c.sample_size},
          {"patch_size", c.patch_size},
          {"in_channels", c.in_channels},
          {"hidden_size", c.hidden_size},
          {"depth", c.depth},
          {"num_heads", c.num_heads},
          {"mlp_ratio", c.mlp_ratio},
          {"class_dropout_prob", c.class_dropout_prob},
          {"num_classes", c.num_classes},
          {"use_qknorm", c.use_qknorm},
          {"use_swiglu", c.use_swiglu},
          {"use_rope", c.use_rope},
          {"use_rmsnorm", c.use_rmsnorm},
          {"wo_shift", c.wo_shift},
          {"use_pos_embed", c.use_pos_embed}};
}

Json config_json(const AutoencoderRAEConfig& c) {
  return {{"encoder_type", c.encoder_type},
          {"encoder_hidden_size", c.encoder_hidden_size},
          {"encoder_patch_size", c.encoder_patch_size},
          {"encoder_num_hidden_layers", c.encoder_num_hidden_layers},
          {"decoder_hidden_size", c.decoder_hidden_size},
          {"decoder_num_hidden_layers", c.decoder_num_hidden_layers},
          {"decoder_num_attention_heads", c.decoder_num_attention_heads},
          {"decoder_intermediate_size", c.decoder_intermediate_size},
          {"patch_size", c.patch_size},
          {"encoder_input_size", c.encoder_input_size},
          {"num_channels", c.num_channels}};
}

using TransformerForward = std::function<Tensor(Context&, const Tensor&, const Tensor&, const Tensor&)>;

Workload transformer_workload(const std::string& name, const RAEDiT2DModelConfig& config, DType dtype, Quantization q,
                              int64_t batch, const TransformerForward& forward) {
  Generator generator(1);
  const Tensor latents = generator.randn({batch, config.in_channels, config.sample_size, config.sample_size});
  const Tensor timestep = Tensor::full({batch}, 0.5f);
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < batch; ++i) ids.push_back(i % config.num_classes);
  const Tensor labels = Tensor::from(ids, {batch});
  return {.name = name,
          .flops = models::transformer_flops(config, batch),
          .bytes = models::transformer_bytes(config, dtype, batch, q),
          .part = "transformer",
          .config = config_json(config),
          .inputs = {latents, timestep, labels},
          .forward = [=](Context& ctx, const std::vector<Tensor>& in) { return forward(ctx, in[0], in[1], in[2]); }};
}

Workload random_transformer_workload(const std::string& name, const RAEDiT2DModelConfig& config, DType dtype,
                                     Quantization q, int64_t batch, const backend::Kernels& kernels) {
  auto model = std::make_shared<models::RaeDitTransformer>(models::random_transformer(config, dtype, kernels, q));
  return transformer_workload(name, config, dtype, q, batch,
                              [=](Context& ctx, const Tensor& x, const Tensor& t, const Tensor& y) {
                                return model->forward(ctx, x, t, y, {}, {});
                              });
}

Workload decoder_workload(const std::string& name, DType dtype, Quantization q, int64_t batch,
                          const backend::Kernels& kernels) {
  const AutoencoderRAEConfig config = models::autoencoder_xl_config();
  auto model = std::make_shared<models::RaeDecoder>(models::random_decoder(config, dtype, kernels, q));
  Generator generator(1);
  const Tensor tokens = generator.randn({batch, config.num_patches(), config.encoder_hidden_size}).to(dtype);
  return {.name = name,
          .flops = models::decoder_flops(config, batch),
          .bytes = models::decoder_bytes(config, dtype, batch, q),
          .part = "decoder",
          .config = config_json(config),
          .inputs = {tokens},
          .forward = [=](Context& ctx, const std::vector<Tensor>& in) { return model->forward(ctx, in[0]); }};
}

Workload encoder_workload(const std::string& name, DType dtype, Quantization q, int64_t batch,
                          const backend::Kernels& kernels) {
  const AutoencoderRAEConfig config = models::autoencoder_xl_config();
  auto model = std::make_shared<models::Dinov2WithRegisters>(models::random_encoder(config, dtype, kernels, q));
  Generator generator(1);
  const Tensor pixels = generator.randn({batch, 3, config.encoder_input_size, config.encoder_input_size});
  return {.name = name,
          .flops = models::encoder_flops(config, batch),
          .bytes = models::encoder_bytes(config, dtype, batch, q),
          .part = "encoder",
          .config = config_json(config),
          .inputs = {pixels},
          .forward = [=](Context& ctx, const std::vector<Tensor>& in) { return model->forward(ctx, in[0], dtype); }};
}

RAEDiT2DModel open_transformer(const ModelOptions& options, const LoadOptions& load) {
  ProgressBar bar(ProgressBar::style_of_stderr(false));
  const Interrupt interrupt;
  Transfer transfer(bar, interrupt);
  HubOptions hub = hub_options(options);
  hub.progress = transfer.downloads();
  const FoundModel found = find_model(options, ModelPart::transformer, hub);
  if (found.upstream) return upstream_models(found, hub).transformer(load);
  return RAEDiT2DModel::from_pretrained(found.path + "/transformer", load);
}

}  // namespace

Workload make_workload(const WorkloadOptions& o, Context& ctx) {
  const LoadOptions load = load_options(o);
  const DType dtype = load.dtype;
  const Quantization q = load.quantization;
  if (o.model.model.ends_with(".json"))
    return random_transformer_workload(o.model.model, RAEDiT2DModelConfig::from_file(o.model.model), dtype, q, o.batch,
                                       ctx.kernels());
  if (o.model.model.empty() && o.size != "bundled") {
    if (o.size == "decoder-xl") return decoder_workload(o.size, dtype, q, o.batch, ctx.kernels());
    if (o.size == "encoder-b") return encoder_workload(o.size, dtype, q, o.batch, ctx.kernels());
    return random_transformer_workload(o.size, models::transformer_config(o.size), dtype, q, o.batch, ctx.kernels());
  }
  const RAEDiT2DModel model = open_transformer(o.model, load);
  return transformer_workload(
      o.model.model.empty() ? o.size : o.model.model, model.config(), dtype, q, o.batch,
      [=](Context& c, const Tensor& x, const Tensor& t, const Tensor& y) { return model.forward(c, x, t, y); });
}

}  // namespace raedit::cli
