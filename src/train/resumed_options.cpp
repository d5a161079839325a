#include "train/resumed_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/text.h"
#include "train/stage2_config.h"

namespace raedit::train {
namespace {

// Places, machines and what is written. The data and the model's shape are compared with what the checkpoint itself
// says of them.
const std::set<std::string> kNotDeciding{"train_data_dir",
                                         "more_train_data_dir",
                                         "classes",
                                         "dataloader_num_workers",
                                         "skip_broken",
                                         "class_ids",
                                         "cache_latents",
                                         "pretrained_rae_model_name_or_path",
                                         "pretrained_transformer_model_name_or_path",
                                         "patch_size",
                                         "encoder_hidden_size",
                                         "decoder_hidden_size",
                                         "encoder_num_layers",
                                         "decoder_num_layers",
                                         "encoder_num_attention_heads",
                                         "decoder_num_attention_heads",
                                         "mlp_ratio",
                                         "num_classes",
                                         "use_qknorm",
                                         "use_swiglu",
                                         "use_rope",
                                         "use_rmsnorm",
                                         "use_pos_embed",
                                         "wo_shift",
                                         "gradient_checkpointing",
                                         "output_dir",
                                         "logging_dir",
                                         "report_to",
                                         "logging_steps",
                                         "checkpointing_steps",
                                         "checkpointing_epochs",
                                         "checkpoints_total_limit",
                                         "resume_from_checkpoint",
                                         "validation_steps",
                                         "validation_class_label",
                                         "num_validation_images",
                                         "validation_num_inference_steps",
                                         "validation_guidance_scale",
                                         "device",
                                         "threads",
                                         "zero1",
                                         "dry_run"};

// The shuffle and the scheduler of a run are those of its first step.
const std::set<std::string> kKept{"seed", "num_train_timesteps", "flow_shift", "time_shift_base"};

std::string shown(const Json& options, const std::string& name) {
  return options.contains(name) ? options.at(name).dump() : "unset";
}

}  // namespace

Json deciding_options(const Stage2Options& options) {
  Json json = options_json(options);
  for (const std::string& name : kNotDeciding) json.erase(name);
  return json;
}

std::vector<std::string> changed_options(const Json& then, const Json& now) {
  std::set<std::string> names;
  for (const Json* options : {&then, &now})
    for (const auto& [name, value] : options->items()) names.insert(name);
  std::vector<std::string> changed, kept;
  for (const std::string& name : names) {
    const std::string before = shown(then, name), after = shown(now, name);
    if (before == after) continue;
    if (!kKept.contains(name))
      changed.push_back(fmt::format("{} {} -> {}", name, before, after));
    else if (now.contains(name))
      kept.push_back(fmt::format("{} {}", name, after));
  }
  std::vector<std::string> lines;
  if (!changed.empty()) lines.push_back("goes on with other options than before: " + join(changed));
  if (!kept.empty()) lines.push_back("not taken, for the run stays with what it began with: " + join(kept));
  return lines;
}

}  // namespace raedit::train
