#include "train/stage2_setup.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/check.h"
#include "core/text.h"
#include "data/combined_sets.h"
#include "io/files.h"
#include "pipeline/model_index.h"
#include "train/lr_schedule.h"
#include "train/stage2_config.h"
#include "train/transformer_weights.h"

namespace raedit::train {
namespace fs = std::filesystem;
namespace {

std::string in(const std::string& folder, const char* name) {
  return (fs::path(folder) / name).string();
}

bool is_folder(const std::string& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

// A pipeline's folder, or the part of it itself.
std::string part_folder(const std::string& path, const char* part, const char* flag) {
  RAEDIT_CHECK(is_folder(path), {.code = ErrorCode::not_found,
                                 .what = "there is no such folder",
                                 .where = flag,
                                 .found = path,
                                 .expected = fmt::format("a folder with a config.json, or with {}/", part)});
  return is_folder(in(path, part)) ? in(path, part) : path;
}

// What a run leaves holds a copy of the autoencoder's folder, which cannot hold itself.
void refuse_output_inside(const std::string& vae_folder, const std::string& output_dir) {
  std::error_code error;
  const fs::path below =
      fs::weakly_canonical(output_dir, error).lexically_relative(fs::weakly_canonical(vae_folder, error));
  RAEDIT_CHECK(error || below.empty() || *below.begin() == "..",
               {.code = ErrorCode::invalid_argument,
                .what = "the output folder lies in the autoencoder's, which is copied into it",
                .where = "--output-dir",
                .found = output_dir,
                .expected = "a folder outside " + vae_folder});
}

void open_vae(Stage2Setup& setup, const Stage2Options& o) {
  setup.vae_folder = part_folder(o.pretrained_rae_model_name_or_path, "vae", "--pretrained-rae-model-name-or-path");
  refuse_output_inside(setup.vae_folder, o.output_dir);
  setup.vae = AutoencoderRAEConfig::from_file(in(setup.vae_folder, "config.json"));
  RAEDIT_CHECK(setup.vae.reshape_to_2d, {.code = ErrorCode::format,
                                         .what = "the autoencoder's latents are token lists, not maps",
                                         .where = setup.vae_folder,
                                         .found = "reshape_to_2d false",
                                         .expected = "reshape_to_2d true"});
  setup.latent_shape = {setup.vae.encoder_hidden_size, setup.vae.grid(), setup.vae.grid()};
}

void open_pictures(Stage2Setup& setup, const Stage2Options& o) {
  std::vector<std::shared_ptr<const data::PictureSet>> sets{data::open_picture_set(o.train_data_dir)};
  for (const std::string& more : o.more_train_data_dir) sets.push_back(data::open_picture_set(more));
  setup.pictures = data::join_sets(std::move(sets));
  if (!o.classes.empty()) setup.pictures = data::select_classes(setup.pictures, o.classes);
  setup.transform.resolution = o.resolution.value_or(setup.vae.output_size());
  setup.transform.crop = o.adm_crop ? data::Crop::adm : o.center_crop ? data::Crop::center : data::Crop::random;
  setup.transform.random_flip = o.random_flip;
  RAEDIT_CHECK(setup.pictures->size() > 0,
               {.code = ErrorCode::format, .what = "there are no pictures", .where = o.train_data_dir});
}

RAEDiT2DModelConfig shape_of(const Stage2Setup& setup, const Stage2Options& o) {
  RAEDiT2DModelConfig c;
  c.sample_size = setup.latent_shape[1];
  c.in_channels = setup.latent_shape[0];
  c.patch_size = {o.patch_size, o.patch_size};
  c.hidden_size = o.hidden_size;
  c.depth = o.num_layers;
  c.num_heads = o.num_attention_heads;
  c.mlp_ratio = o.mlp_ratio;
  c.class_dropout_prob = o.class_dropout_prob;
  c.num_classes = o.num_classes.value_or(static_cast<int64_t>(setup.pictures->classes().size()));
  c.use_qknorm = o.use_qknorm;
  c.use_swiglu = o.use_swiglu;
  c.use_rope = o.use_rope;
  c.use_rmsnorm = o.use_rmsnorm;
  c.use_pos_embed = o.use_pos_embed;
  c.wo_shift = o.wo_shift;
  return models::parse_rae_dit_config(config_json(c), "the model that the options describe");
}

void check_pretrained_fits(const Stage2Setup& setup, const std::string& folder) {
  const RAEDiT2DModelConfig& c = setup.model;
  RAEDIT_CHECK(
      c.in_channels == setup.latent_shape[0] && c.sample_size == setup.latent_shape[1],
      {.code = ErrorCode::format,
       .what = "the transformer is not of this autoencoder's latents",
       .where = folder,
       .found = fmt::format("in_channels {}, sample_size {}", c.in_channels, c.sample_size),
       .expected = fmt::format("in_channels {}, sample_size {}", setup.latent_shape[0], setup.latent_shape[1])});
}

// A pipeline's folder or one named transformer/ has its scheduler beside it; a model's folder alone has none, and the
// options say.
std::optional<std::string> scheduler_beside(const std::string& root, const std::string& folder) {
  const fs::path clean = fs::path(folder).has_filename() ? fs::path(folder) : fs::path(folder).parent_path();
  if (root == folder && clean.filename() != "transformer") return {};
  const std::string scheduler = (clean.parent_path() / "scheduler").string();
  RAEDIT_CHECK(is_file(in(scheduler, "scheduler_config.json")),
               {.code = ErrorCode::not_found,
                .what = "a transformer to go on from has no scheduler beside it",
                .where = "--pretrained-transformer-model-name-or-path",
                .found = folder,
                .expected = scheduler + "/scheduler_config.json",
                .hint = "its noise levels are what the weights know; copy the folder of the model here"});
  return scheduler;
}

void open_transformer(Stage2Setup& setup, const Stage2Options& o) {
  const std::string& root = o.pretrained_transformer_model_name_or_path;
  if (root.empty()) {
    setup.model = shape_of(setup, o);
    return;
  }
  const std::string folder = part_folder(root, "transformer", "--pretrained-transformer-model-name-or-path");
  setup.pretrained = models::open_model(folder, "RAEDiT2DModel", {});
  setup.model = models::parse_rae_dit_config(setup.pretrained->config, setup.pretrained->where);
  check_pretrained_fits(setup, folder);
  RAEDIT_CHECK(!o.num_classes || *o.num_classes <= setup.model.num_classes,
               {.code = ErrorCode::invalid_argument,
                .what = "the pretrained transformer has fewer classes",
                .where = "--num-classes",
                .found = fmt::to_string(o.num_classes.value_or(0)),
                .expected = fmt::format("at most {}, or nothing", setup.model.num_classes)});
  if (const auto scheduler = scheduler_beside(root, folder))
    setup.scheduler = FlowMatchEulerDiscreteScheduler::from_pretrained(*scheduler);
}

void make_scheduler(Stage2Setup& setup, const Stage2Options& o) {
  FlowMatchEulerDiscreteSchedulerConfig config;
  config.num_train_timesteps = o.num_train_timesteps;
  config.shift = o.flow_shift.value_or(std::sqrt(static_cast<double>(setup.latent_shape.numel()) / o.time_shift_base));
  setup.scheduler = FlowMatchEulerDiscreteScheduler(config);
}

// What the pretrained pipeline calls its classes; nothing for a model that has no pipeline around it.
std::map<int64_t, std::string> known_names(const Stage2Options& o) {
  const std::string index = in(o.pretrained_transformer_model_name_or_path, "model_index.json");
  if (o.pretrained_transformer_model_name_or_path.empty() || !is_file(index)) return {};
  return read_id2label(parse_json(read_file(index), index), index);
}

void number_by_order(Stage2Setup& setup, const Stage2Options& o) {
  const auto found = static_cast<int64_t>(setup.pictures->classes().size());
  RAEDIT_CHECK(found <= setup.model.num_classes,
               {.code = ErrorCode::invalid_argument,
                .what = "the data have more classes than the model",
                .where = o.train_data_dir,
                .found = fmt::format("{} classes", found),
                .expected = fmt::format("at most {} ({})", setup.model.num_classes,
                                        setup.pretrained ? "of the pretrained transformer" : "--num-classes")});
  for (int64_t id = 0; id < found; ++id) setup.class_ids.push_back(id);
  for (const int64_t label : o.validation_class_label)
    RAEDIT_CHECK(label < found, {.code = ErrorCode::invalid_argument,
                                 .what = "there is no such class",
                                 .where = "--validation-class-label",
                                 .found = fmt::to_string(label),
                                 .expected = fmt::format("0 to {}", found - 1)});
}

std::map<std::string, int64_t> ids_by_name(const std::map<int64_t, std::string>& names, int64_t num_classes,
                                           const std::string& where) {
  std::map<std::string, int64_t> ids;
  for (const auto& [id, name] : names) {
    RAEDIT_CHECK(id >= 0 && id < num_classes && ids.emplace(name, id).second,
                 {.code = ErrorCode::format,
                  .what = "the model's names do not number its classes",
                  .where = where,
                  .found = fmt::format("{}: '{}'", id, name),
                  .expected = fmt::format("every name once, ids below {}", num_classes),
                  .hint = "--class-ids by-order takes the data's own order"});
  }
  return ids;
}

void number_by_name(Stage2Setup& setup, const Stage2Options& o, const std::map<int64_t, std::string>& names) {
  const auto ids = ids_by_name(names, setup.model.num_classes, o.pretrained_transformer_model_name_or_path);
  const auto& classes = setup.pictures->classes();
  RAEDIT_CHECK(
      o.class_ids == "by-name" ||
          std::any_of(classes.begin(), classes.end(), [&](const auto& name) { return ids.contains(name); }),
      {.code = ErrorCode::invalid_argument,
       .what = "none of the data's classes has a name that the model knows",
       .where = o.train_data_dir,
       .found = classes.front() + (classes.size() > 1 ? ", ..." : ""),
       .expected = ids.begin()->first + ", ...",
       .hint = "--class-ids by-name adds them behind the model's classes, by-order takes ids 0, 1, ... for them"});
  std::vector<std::string> added;
  for (const std::string& name : setup.pictures->classes()) {
    const auto known = ids.find(name);
    if (known == ids.end()) added.push_back(name);
    setup.class_ids.push_back(known != ids.end() ? known->second
                                                 : setup.model.num_classes + static_cast<int64_t>(added.size()) - 1);
  }
  if (added.empty()) return;
  setup.notes.push_back(fmt::format("new classes behind the model's {}: {}", setup.model.num_classes, join(added)));
  setup.pretrained = with_more_classes(*setup.pretrained, setup.model, static_cast<int64_t>(added.size()));
  setup.model = models::parse_rae_dit_config(setup.pretrained->config, setup.pretrained->where);
}

void number_classes(Stage2Setup& setup, const Stage2Options& o) {
  const std::map<int64_t, std::string> names = known_names(o);
  RAEDIT_CHECK(o.class_ids != "by-name" || !names.empty(),
               {.code = ErrorCode::invalid_argument,
                .what = "there are no names to number the classes by",
                .where = "--class-ids",
                .found = "by-name",
                .expected = "a pretrained pipeline whose model_index.json has id2label"});
  if (o.class_ids == "by-order" || names.empty())
    number_by_order(setup, o);
  else
    number_by_name(setup, o, names);
  setup.id2label = names;
  for (size_t i = 0; i < setup.class_ids.size(); ++i) setup.id2label[setup.class_ids[i]] = setup.pictures->classes()[i];
}

void check_validation(const Stage2Setup& setup, const Stage2Options& o) {
  for (const int64_t label : o.validation_class_label)
    RAEDIT_CHECK(label < setup.model.num_classes, {.code = ErrorCode::invalid_argument,
                                                   .what = "there is no such class",
                                                   .where = "--validation-class-label",
                                                   .found = fmt::to_string(label),
                                                   .expected = fmt::format("0 to {}", setup.model.num_classes - 1)});
  RAEDIT_CHECK(o.validation_guidance_scale <= 1.0 || setup.model.has_null_class(),
               {.code = ErrorCode::invalid_argument,
                .what = "guidance needs a class that is none, and this model has been trained without",
                .where = "--validation-guidance-scale",
                .found = fmt::to_string(o.validation_guidance_scale),
                .hint = "--class-dropout-prob above 0, or a scale of 1"});
}

void check_schedule(const Stage2Setup& setup) {
  RAEDIT_CHECK(setup.max_train_steps >= 1, {.code = ErrorCode::invalid_argument,
                                            .what = "a run has at least one step",
                                            .where = "--max-train-steps",
                                            .found = fmt::to_string(setup.max_train_steps)});
  for (const int64_t step : {int64_t{0}, setup.max_train_steps - 1}) (void)setup.lr(step);
}

}  // namespace

int64_t training_steps(const Stage2Options& o, int64_t pictures, int64_t global_batch) {
  if (o.max_train_steps) return *o.max_train_steps;
  return (o.num_train_epochs * pictures + global_batch - 1) / global_batch;
}

std::function<double(int64_t)> make_lr(const Stage2Options& o, double base_lr, int64_t max_train_steps,
                                       double steps_per_epoch) {
  const auto in_steps = [&](const std::optional<double>& epochs, int64_t steps) {
    return epochs ? static_cast<int64_t>(std::llround(*epochs * steps_per_epoch)) : steps;
  };
  const int64_t warmup = in_steps(o.lr_warmup_epochs, o.lr_warmup_steps);
  if (o.lr_scheduler == "piecewise_constant") {
    const auto rules = PiecewiseConstantLr::parse(o.lr_step_rules, base_lr);
    return [rules](int64_t step) { return rules.lr(step); };
  }
  if (o.lr_scheduler.starts_with("upstream-")) {
    UpstreamLr lr;
    lr.shape = o.lr_scheduler == "upstream-cosine" ? UpstreamLr::Shape::cosine : UpstreamLr::Shape::linear;
    lr.base_lr = base_lr;
    lr.final_lr = o.lr_final.value_or(base_lr);
    lr.warmup_steps = warmup;
    lr.decay_end_steps = in_steps(o.lr_decay_end_epochs, o.lr_decay_end_steps.value_or(max_train_steps));
    lr.warmup_from_zero = o.lr_warmup_from_zero;
    return [lr](int64_t step) { return lr.lr(step); };
  }
  LrSchedule lr{lr_schedule_from_name(o.lr_scheduler), base_lr, warmup, max_train_steps, o.lr_num_cycles, o.lr_power};
  return [lr](int64_t step) { return lr.lr(step); };
}

Stage2Setup make_stage2_setup(const Stage2Options& options, int rank, int ranks) {
  Stage2Options o = options;
  o.check();
  share_out_batch(o, ranks);
  Stage2Setup setup;
  open_vae(setup, o);
  open_pictures(setup, o);
  make_scheduler(setup, o);
  open_transformer(setup, o);
  number_classes(setup, o);
  check_validation(setup, o);
  setup.dtype = o.mixed_precision == "bf16" ? DType::bfloat16 : DType::float32;
  setup.cut = {o.train_batch_size, o.gradient_accumulation_steps, rank, ranks};
  setup.max_train_steps = training_steps(o, setup.pictures->size(), setup.cut.global_batch());
  setup.checkpointing_steps =
      o.checkpointing_epochs ? std::max<int64_t>(1, std::llround(*o.checkpointing_epochs * setup.steps_per_epoch()))
                             : o.checkpointing_steps;
  const double base_lr = o.learning_rate * (o.scale_lr ? static_cast<double>(setup.cut.global_batch()) : 1.0);
  setup.lr = make_lr(o, base_lr, setup.max_train_steps, setup.steps_per_epoch());
  check_schedule(setup);
  return setup;
}

}  // namespace raedit::train
