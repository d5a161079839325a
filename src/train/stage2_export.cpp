#include "train/stage2_export.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/check.h"
#include "io/files.h"
#include "io/folder_entries.h"
#include "io/safetensors.h"
#include "io/staged_folder.h"
#include "pipeline/model_index.h"
#include "train/stage2_setup.h"
#include "train/stage2_trainer.h"

namespace raedit::train {
namespace fs = std::filesystem;
namespace {

void write_transformer(const models::ModelSource& source, const std::string& folder) {
  create_directories(folder);
  std::vector<TensorSource> tensors;
  for (const std::string& name : source.weights->names()) {
    const Tensor tensor = source.weights->tensor(name);
    tensors.push_back({name, tensor.dtype(), tensor.shape(), [tensor] { return tensor.cpu(); }});
  }
  write_safetensors_sharded(folder, "diffusion_pytorch_model", "", tensors, SaveOptions().max_shard_bytes);
  write_file((fs::path(folder) / "config.json").string(), source.config.dump(2) + "\n");
}

// Of an autoencoder, which may be links into a download cache.
void copy_files(const fs::path& from, const fs::path& to) {
  create_directories(to.string());
  std::error_code error;
  for (const auto& entry : folder_entries(from.string())) {
    const fs::path target = to / entry.path().filename();
    if (entry.is_directory(error))
      copy_files(entry.path(), target);
    else
      copy_file(entry.path().string(), target.string());
  }
}

void copy_autoencoder(const std::string& from, const std::string& to) {
  try {
    copy_files(from, to);
  } catch (const Error& error) {
    raise({.code = ErrorCode::io,
           .what = "cannot copy the autoencoder",
           .where = from,
           .found = error.what(),
           .expected = "files that can be read, and room for them in " + to});
  }
}

}  // namespace

void export_pipeline(const std::string& folder, const models::ModelSource& transformer, const std::string& vae_folder,
                     const FlowMatchEulerDiscreteScheduler& scheduler, const std::map<int64_t, std::string>& id2label) {
  StagedFolder staged(folder);
  write_transformer(transformer, staged.at("transformer"));
  scheduler.save_pretrained(staged.at("scheduler"));
  std::error_code error;
  if (!fs::equivalent(vae_folder, fs::path(folder) / "vae", error)) copy_autoencoder(vae_folder, staged.at("vae"));
  write_file(staged.at("model_index.json"), model_index(id2label).dump(2) + "\n");
  staged.commit();
}

MemoryPlanOptions memory_options(const Stage2Options& o, int64_t batch, int ranks) {
  return {batch,
          o.mixed_precision == "bf16",
          o.gradient_checkpointing,
          o.ema_decay.has_value(),
          o.zero1 ? ranks : 1,
          Device::from_name(o.device).type != DeviceType::cpu};
}

std::string describe_stage2_plan(const Stage2Options& options, int ranks) {
  const Stage2Setup setup = make_stage2_setup(options, 0, ranks);
  std::string text;
  for (const std::string& line : setup.notes) text += line + "\n";
  text += fmt::format("pictures       {} in {} classes from {}\n", setup.pictures->size(),
                      setup.pictures->classes().size(), options.train_data_dir);
  text += fmt::format("transform      {}\n", setup.transform.describe());
  text += fmt::format("latents        {}, flow shift {:.4f}, times: {}, weighting: {}\n", setup.latent_shape.str(),
                      setup.scheduler.config().shift, options.time_distribution, options.weighting_scheme);
  text += fmt::format("batch          {} = {} x {} accumulation x {} ranks\n", setup.cut.global_batch(),
                      setup.cut.batch, setup.cut.accumulation, setup.cut.ranks);
  text += fmt::format("steps          {}, {:.2f} epochs; learning rate {:.3g} at step 1, {:.3g} at the last\n",
                      setup.max_train_steps, static_cast<double>(setup.max_train_steps) / setup.steps_per_epoch(),
                      setup.lr(0), setup.lr(setup.max_train_steps - 1));
  text +=
      fmt::format("writes         {}, a checkpoint every {} steps\n\n", options.output_dir, setup.checkpointing_steps);
  const bool on_host = Device::from_name(options.device).type == DeviceType::cpu;
  return text + plan_memory(setup.model, memory_options(options, setup.cut.batch, ranks))
                    .table(on_host ? available_memory() : kUnknownMemory);
}

}  // namespace raedit::train
