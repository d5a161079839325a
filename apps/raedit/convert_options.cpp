#include "convert_options.h"

#include <fmt/format.h>

#include <limits>

#include "values.h"

namespace raedit::cli {
namespace {

CLI::Option* add_text(CLI::App& app, const std::string& name, std::string& value, const std::string& type,
                      const std::string& help) {
  return app.add_option(both_spellings(name), value, help)->type_name(type);
}

void add_number(CLI::App& app, const std::string& name, int64_t& value, const std::string& help) {
  app.add_option(both_spellings(name), value, fmt::format("{} (default {})", help, value))
      ->type_name("N")
      ->check(whole_number(1, std::numeric_limits<int32_t>::max()));
}

void add_source(CLI::App& app, std::string& repo_or_path, const std::string& help) {
  add_text(app, "repo_or_path", repo_or_path, "DIR|NAME", help)->required();
}

void add_checkpoint_key(CLI::App& app, std::string& key, bool& disable_ema) {
  add_text(app, "checkpoint_key", key, "KEY",
           "dotted path to the weights inside the checkpoint\n(default: ema, model, state_dict, or the file itself)");
  add_switch(app, both_spellings("disable_ema"), disable_ema, "prefer the weights called model to those called ema");
}

void add_latents_std(CLI::App& app, ConvertCommonOptions& common) {
  add_text(
      app, "latents_std", common.latents_std, "WHICH",
      "diffusers: sqrt(var + 1e-5), as the script; upstream: so that the run time divides by\nwhat upstream's code "
      "divides by (default diffusers)")
      ->check(one_of({"diffusers", "upstream"}));
}

}  // namespace

void add_common_options(CLI::App& app, ConvertCommonOptions& o) {
  add_text(app, "output_path", o.output_path, "DIR", "folder to write; files that are there are replaced")->required();
  add_text(app, "dtype", o.dtype, "TYPE", "of what is written: float32, bfloat16 or float16 (default float32)")
      ->check(one_of({"float32", "bfloat16", "float16"}));
  add_text(app, "max_shard_bytes", o.max_shard_bytes, "SIZE", "largest file of weights, such as 5GB (default 10GB)")
      ->check(byte_count());
  add_text(app, "cache_dir", o.cache_dir, "DIR", "where downloads are kept (default: the Hugging Face cache)");
  add_switch(app, both_spellings("offline"), o.offline, "use the cache alone, never the network");
  add_switch(app, both_spellings("verify_load") + ",--verify", o.verify,
             "read back what was written and compare it with the source, bit for bit; short: --verify");
  add_switch(app, both_spellings("dry_run"), o.dry_run, "check everything, print the metadata, write nothing");
  add_switch(app, both_spellings("json"), o.json, "print the report as one JSON object");
  add_switch(app, both_spellings("quiet"), o.quiet, "nothing on stderr but errors");
}

void add_stage2_options(CLI::App& app, ConvertStage2Options& o, ConvertCommonOptions& common) {
  add_source(app, o.repo_or_path, "folder or org/name[@revision] with the weights");
  add_text(app, "config_repo_or_path", o.config_repo_or_path, "DIR|NAME",
           "where the YAML is, if not in --repo_or_path");
  add_text(app, "config_path", o.config_path, "FILE", "the YAML: a path in there, or a file")->required();
  add_text(app, "vae_model_name_or_path", o.vae_model_name_or_path, "DIR|NAME",
           "an AutoencoderRAE in the diffusers layout; the result is a whole pipeline");
  add_text(app, "id2label_json_path", o.id2label_json_path, "FILE", "names of the classes, for the pipeline");
  add_text(app, "checkpoint_path", o.checkpoint_path, "FILE", "checkpoint instead of the YAML's stage_2.ckpt");
  add_checkpoint_key(app, o.checkpoint_key, o.disable_ema);
  add_text(app, "transformer_subfolder", o.transformer_subfolder, "NAME", "(default transformer)");
  add_text(app, "scheduler_subfolder", o.scheduler_subfolder, "NAME", "(default scheduler)");
  add_switch(app, both_spellings("safe_serialization"), common.safe_serialization,
             "accepted for the script's sake: safetensors is all that is written");
}

void add_rae_options(CLI::App& app, ConvertRaeOptions& o, ConvertCommonOptions& common) {
  add_source(app, o.repo_or_path, "folder or org/name[@revision] with decoder and statistics");
  add_text(app, "encoder_type", o.encoder_type, "TYPE", "dinov2, siglip2 or mae")
      ->required()
      ->check(one_of({"dinov2", "siglip2", "mae"}));
  add_text(app, "encoder_name_or_path", o.encoder_name_or_path, "DIR|NAME",
           "the encoder in the Hugging Face layout (default: the published base model)");
  add_text(app, "variant", o.variant, "NAME", fmt::format("folder of the decoder (default {})", o.variant));
  add_text(app, "dataset_name", o.dataset_name, "NAME",
           fmt::format("folder of the statistics (default {})", o.dataset_name));
  add_text(app, "decoder_checkpoint", o.decoder_checkpoint, "FILE", "decoder, a path in there or a file");
  add_text(app, "stats_checkpoint", o.stats_checkpoint, "FILE", "statistics, a path in there or a file");
  add_checkpoint_key(app, o.checkpoint_key, o.disable_ema);
  add_text(app, "decoder_config_name", o.decoder_config_name, "NAME|FILE",
           "ViTB, ViTL, ViTXL, or a decoder's config.json (default ViTXL)");
  add_number(app, "encoder_input_size", o.encoder_input_size, "pixels along an edge of what the encoder sees");
  add_number(app, "patch_size", o.patch_size, "pixels along an edge of the decoder's patches");
  app.add_option(both_spellings("image_size"), o.image_size,
                 "pixels along an edge of the result (default: a patch for every token)")
      ->type_name("N")
      ->check(whole_number(1, std::numeric_limits<int32_t>::max()));
  add_number(app, "num_channels", o.num_channels, "of pictures");
  app.add_option(both_spellings("scaling_factor"), o.scaling_factor, "of the latents (default 1)")
      ->type_name("X")
      ->check(number(std::numeric_limits<double>::min()));
  add_latents_std(app, common);
}

void add_pipeline_options(CLI::App& app, ConvertPipelineOptions& o, ConvertCommonOptions& common) {
  add_source(app, o.repo_or_path, "folder or org/name[@revision] with weights, decoder and statistics");
  add_text(app, "config_repo_or_path", o.config_repo_or_path, "DIR|NAME",
           "where the YAML is, if not in --repo_or_path");
  add_text(app, "config_path", o.config_path, "FILE",
           "the YAML with stage_1 and stage_2 (default: the only one that has both)");
  add_text(app, "checkpoint_path", o.checkpoint_path, "FILE", "checkpoint instead of the YAML's stage_2.ckpt");
  add_checkpoint_key(app, o.checkpoint_key, o.disable_ema);
  add_text(app, "encoder_name_or_path", o.encoder_name_or_path, "DIR|NAME", "encoder instead of the YAML's");
  add_text(app, "decoder_checkpoint", o.decoder_checkpoint, "FILE", "decoder instead of the YAML's");
  add_text(app, "stats_checkpoint", o.stats_checkpoint, "FILE", "statistics instead of the YAML's");
  add_text(app, "vae_model_name_or_path", o.vae_model_name_or_path, "DIR|NAME",
           "an AutoencoderRAE in the diffusers layout instead of the YAML's stage_1");
  add_text(app, "id2label_json_path", o.id2label_json_path, "FILE",
           "names of the classes (default: those of ImageNet-1k for 1000 classes)");
  add_latents_std(app, common);
}

void add_export_options(CLI::App& app, ConvertExportOptions& o) {
  add_text(app, "model", o.model, "DIR|NAME",
           "a pipeline, a RAEDiT2DModel or an AutoencoderRAE in the diffusers layout")
      ->required();
}

ConvertOutput convert_output(const ConvertCommonOptions& o) {
  ConvertOutput output;
  output.output_path = o.output_path;
  output.dtype = dtype_from_name(o.dtype);
  output.max_shard_bytes = parse_bytes(o.max_shard_bytes);
  output.dry_run = o.dry_run;
  output.verify_load = o.verify;
  output.hub.cache_dir = o.cache_dir;
  output.hub.offline = o.offline;
  return output;
}

LatentsStd latents_std(const ConvertCommonOptions& o) {
  return o.latents_std == "upstream" ? LatentsStd::upstream : LatentsStd::diffusers;
}

}  // namespace raedit::cli
