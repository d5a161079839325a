#include "train/stage2_trainer.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <random>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"
#include "train/checkpoints.h"
#include "train/memory_plan.h"
#include "train/run_log.h"
#include "train/stage2_export.h"
#include "train/stage2_setup.h"
#include "train/training_batches.h"
#include "train/transformer_weights.h"
#include "train/validation.h"

namespace raedit::train {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string in(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

// Where a run stands, beside the model itself: what trainer_state.json keeps.
struct RunState {
  uint64_t seed = 0;
  int64_t position = 0;  // in the stream of samples; steps that were skipped or taken back have used theirs up, too
  double lr_factor = 1;  // below 1 after a restore
  int64_t bad_steps = 0, restores = 0;

  Json json() const {
    return {{"seed", seed},
            {"position", position},
            {"lr_factor", lr_factor},
            {"bad_steps", bad_steps},
            {"restores", restores}};
  }
  static RunState read(const Json& json, const std::string& where) {
    JsonReader reader(json, where);
    RunState state;
    const Json* seed = reader.raw("seed");
    if (seed == nullptr || !seed->is_number_unsigned()) reader.fail("seed", "a whole number");
    state.seed = seed->get<uint64_t>();
    state.position = reader.int64("position");
    state.lr_factor = reader.number("lr_factor");
    state.bad_steps = reader.int64("bad_steps");
    state.restores = reader.int64("restores");
    if (state.position < 0) reader.fail("position", "0 or more");
    return state;
  }
};

// Means over the steps since the last report.
struct Meter {
  double loss = 0, grad_norm = 0;
  int64_t steps = 0;
  Clock::time_point since = Clock::now();

  void add(const Stage2StepResult& result) {
    loss += result.loss;
    grad_norm += result.grad_norm;
    ++steps;
  }
};

class Run {
 public:
  Run(const Stage2Options& options, dist::Communicator& ranks, TrainObserver& observer, const CancelToken& cancel)
      : options_(options),
        ranks_(ranks),
        observer_(observer),
        cancel_(cancel),
        setup_(make_stage2_setup(options, ranks.rank(), ranks.size())),
        ctx_({.device = Device::from_name(options.device), .threads = static_cast<int>(options.threads)}) {}

  TrainingResult run() {
    find_start();
    check_memory();
    announce();
    open_latents();
    if (cancel_.cancelled()) return interrupted_before_steps();
    make_model();
    begin_logs();
    train();
    if (result_.interrupted) {
      if (step_->steps() > 0) save_checkpoint();
    } else {
      export_result();
    }
    result_.steps = step_->steps();
    result_.bad_steps = state_.bad_steps;
    return result_;
  }

 private:
  bool first() const { return ranks_.is_first(); }
  void note(const std::string& line) {
    if (first()) observer_.note(line);
  }

  // ---- before the first step

  void find_start() {
    const std::string& dir = options_.output_dir;
    if (!options_.resume_from_checkpoint.empty()) {
      resumed_ = find_checkpoint(dir, options_.resume_from_checkpoint);
      if (!resumed_) note("no checkpoint in " + dir + " yet: a new run begins");
    } else if (const auto there = list_checkpoints(dir); !there.empty()) {
      raise({.code = ErrorCode::invalid_argument,
             .what = "there are checkpoints of another run",
             .where = "--output-dir",
             .found = there.back().path,
             .hint = "go on with --resume latest, or choose another folder"});
    }
    if (first()) {
      create_directories(dir);
      remove_leftovers(dir);
    }
    state_.seed = first_ranks_seed();
    ranks_.barrier();
  }

  uint64_t first_ranks_seed() {
    uint64_t seed = options_.seed ? *options_.seed : std::random_device{}();
    ranks_.broadcast(&seed, sizeof(seed), 0);
    return seed;
  }

  void check_memory() {
    if (ctx_.device().type != DeviceType::cpu) return;
    const MemoryPlan plan = plan_memory(setup_.model, memory_options(options_, setup_.cut.batch, ranks_.size()));
    const uint64_t available = available_memory();
    RAEDIT_CHECK(plan.total() <= available, {.code = ErrorCode::out_of_memory,
                                             .what = "a training step needs more memory than there is",
                                             .found = human_bytes(available) + " available",
                                             .expected = human_bytes(plan.total()),
                                             .hint = "the plan:\n" + plan.table(available)});
    if (available != kUnknownMemory)
      note(
          fmt::format("memory of a step: {} planned, {} available", human_bytes(plan.total()), human_bytes(available)));
  }

  void announce() {
    for (const std::string& line : setup_.notes) note(line);
    note(fmt::format("{} pictures in {} classes, latents {}", setup_.pictures->size(),
                     setup_.pictures->classes().size(), setup_.latent_shape.str()));
    note(fmt::format("{} steps of {} pictures ({} x {} x {}: batch, accumulation, ranks), {:.1f} epochs, seed {}",
                     setup_.max_train_steps, setup_.cut.global_batch(), setup_.cut.batch, setup_.cut.accumulation,
                     setup_.cut.ranks, static_cast<double>(setup_.max_train_steps) / setup_.steps_per_epoch(),
                     state_.seed));
    note(fmt::format("flow shift {:.4f}; {}", setup_.scheduler.config().shift, ctx_.description()));
  }

  LoadOptions load_options() const { return {setup_.dtype, ctx_.device(), static_cast<int>(options_.threads), {}}; }

  const AutoencoderRAE& vae() {
    if (!vae_)
      vae_ = std::make_shared<const AutoencoderRAE>(AutoencoderRAE::from_pretrained(setup_.vae_folder, load_options()));
    return *vae_;
  }

  void open_latents() {
    source_.loader = {static_cast<int>(options_.dataloader_num_workers), 2, options_.skip_broken};
    source_.transform = setup_.transform;
    source_.class_ids = setup_.class_ids;
    if (options_.cache_latents.empty()) {
      source_.pictures = setup_.pictures;
      vae();
      source_.vae = vae_;
      return;
    }
    const LatentCacheKey key = latent_cache_key(setup_.vae_folder, *setup_.pictures, setup_.transform, setup_.dtype);
    bool finished = LatentCache::exists(options_.cache_latents);
    if (!ranks_.any(!finished)) finished = true;
    if (!finished) build_cache(key);
    source_.cache = std::make_shared<const LatentCache>(LatentCache::open(options_.cache_latents, key));
  }

  void build_cache(const LatentCacheKey& key) {
    LatentCacheBuild build;
    build.loader = source_.loader;
    build.rank = ranks_.rank();
    build.ranks = ranks_.size();
    build.cancel = cancel_;
    build.progress = [this](const LatentCacheProgress& progress) {
      if (!progress.note.empty()) note(progress.note);
      if (first()) observer_.phase("latents", progress.done, progress.total);
    };
    const auto encode = [&] {
      LatentCache::build(ctx_, options_.cache_latents, key, setup_.pictures, setup_.transform, vae(), build);
    };
    encode();
    ranks_.barrier();
    if (ranks_.size() > 1 && first()) {  // the others' shards are there: what is left is the index
      build.rank = 0;
      build.ranks = 1;
      encode();
    }
    ranks_.barrier();
  }

  TrainingResult interrupted_before_steps() {
    result_.interrupted = true;
    return result_;
  }

  void make_model() {
    const backend::Kernels& kernels = ctx_.kernels();
    if (resumed_)
      model_ = load_transformer(checkpointed_model(), setup_.dtype, kernels);
    else if (setup_.pretrained)
      model_ = load_transformer(*setup_.pretrained, setup_.dtype, kernels);
    else
      model_ = fresh_transformer(setup_.model, mix_seed(state_.seed, 3, 0), setup_.dtype, kernels);
    Stage2StepOptions step;
    step.adamw = {options_.adam_beta1, options_.adam_beta2, options_.adam_epsilon, options_.adam_weight_decay};
    step.max_grad_norm = options_.max_grad_norm;
    step.ema_decay = options_.ema_decay;
    step.ema_warmup = options_.ema_warmup;
    step.decay_matrices_only = options_.decay_matrices_only;
    step.checkpointing = options_.gradient_checkpointing;
    step.zero1 = options_.zero1;
    step_.emplace(kernels, *model_, step, ranks_.size() > 1 ? &ranks_ : nullptr);
    if (resumed_) restore(resumed_->path);
    objective_.emplace(setup_.scheduler, options_.time_distribution,
                       diffusion::DensityOptions{diffusion::weighting_scheme_from_name(options_.weighting_scheme),
                                                 options_.logit_mean, options_.logit_std, options_.mode_scale},
                       setup_.model.class_dropout_prob);
    plan_.emplace(setup_.pictures->size(), state_.seed);
    batches_ = std::make_unique<TrainingBatches>(*plan_, *objective_, setup_.cut, state_.position, setup_.latent_shape,
                                                 setup_.model.num_classes, source_, cancel_);
  }

  // With its buffers, which a step does not restore.
  models::ModelSource checkpointed_model() const {
    models::ModelSource source = models::open_model(in(resumed_->path, "transformer"), "RAEDiT2DModel", {});
    const Json found = config_json(models::parse_rae_dit_config(source.config, source.where)),
               expected = config_json(setup_.model);
    for (const auto& [key, value] : expected.items())
      RAEDIT_CHECK(found.at(key) == value, {.code = ErrorCode::invalid_argument,
                                            .what = "the checkpoint is of another model than the options describe",
                                            .where = source.where,
                                            .found = fmt::format("{} {}", key, found.at(key).dump()),
                                            .expected = value.dump()});
    return source;
  }

  // Model, moments and averages, and where the run stood. The scheduler that was trained with wins over the options.
  void restore(const std::string& folder) {
    const Json state = step_->restore(folder);
    const std::string where = in(folder, "trainer_state.json");
    RAEDIT_CHECK(state.contains("trainer"), {.code = ErrorCode::format,
                                             .what = "the checkpoint does not say where the run stood",
                                             .where = where,
                                             .expected = "a \"trainer\" object"});
    state_ = RunState::read(state.at("trainer"), where);
    if (is_file(in(folder, "scheduler/scheduler_config.json")))
      setup_.scheduler = FlowMatchEulerDiscreteScheduler::from_pretrained(in(folder, "scheduler"));
    last_good_ = folder;
    note(fmt::format("goes on behind step {} of {}", step_->steps(), folder));
  }

  void begin_logs() {
    if (!first()) return;
    Json names = Json::object();
    for (size_t i = 0; i < setup_.pictures->classes().size(); ++i)
      names[std::to_string(setup_.class_ids[i])] = setup_.pictures->classes()[i];
    write_file(in(options_.output_dir, "id2label.json"), names.dump(2) + "\n");
    const std::string events =
        options_.report_to == "tensorboard" ? in(options_.output_dir, options_.logging_dir) : std::string();
    std::optional<int64_t> resume_step;
    if (!options_.resume_from_checkpoint.empty()) resume_step = step_->steps();
    log_.emplace(options_.output_dir, events, resume_step);
  }

  // ---- steps

  void train() {
    if (step_->steps() >= setup_.max_train_steps)
      note(fmt::format("step {} is reached already: nothing is trained", setup_.max_train_steps));
    meter_ = {};
    while (step_->steps() < setup_.max_train_steps) {
      if (ranks_.any(cancel_.cancelled())) {
        result_.interrupted = true;
        return;
      }
      const int64_t before = step_->steps();
      const Stage2StepResult result = one_step();
      state_.position += setup_.cut.global_batch();
      if (!result.not_finite.empty()) {
        bad_step(result);
        continue;
      }
      bad_in_a_row_ = 0;
      after_step(before + 1, result);
    }
  }

  double lr() const { return setup_.lr(step_->steps()) * state_.lr_factor; }

  Stage2StepResult one_step() {
    const int64_t parts = setup_.cut.accumulation * setup_.cut.ranks;
    for (int64_t part = 0; part < setup_.cut.accumulation; ++part) step_->accumulate(ctx_, batches_->next(ctx_), parts);
    return step_->step(ctx_, lr());
  }

  void after_step(int64_t step, const Stage2StepResult& result) {
    meter_.add(result);
    const bool last = step == setup_.max_train_steps;
    if (step % options_.logging_steps == 0 || last) report(step);
    if (step % setup_.checkpointing_steps == 0) save_checkpoint();
    if (options_.validation_steps && step % *options_.validation_steps == 0) validate(step);
  }

  void report(int64_t step) {
    if (first()) {
      const auto steps = static_cast<double>(meter_.steps);
      const double seconds = seconds_since(meter_.since);
      StepReport report;
      report.step = step;
      report.max_train_steps = setup_.max_train_steps;
      report.epoch = static_cast<double>(state_.position) / static_cast<double>(setup_.pictures->size());
      report.loss = meter_.loss / steps;
      report.grad_norm = meter_.grad_norm / steps;
      report.lr = setup_.lr(step - 1) * state_.lr_factor;
      report.images_per_second = steps * static_cast<double>(setup_.cut.global_batch()) / seconds;
      report.seconds_left = static_cast<double>(setup_.max_train_steps - step) * seconds / steps;
      report.bad_steps = state_.bad_steps;
      log_->step(report);
      observer_.step(report);
      tell_broken();
    }
    meter_ = {};
  }

  void tell_broken() {
    const std::vector<std::string> broken = batches_->broken();
    for (; told_broken_ < broken.size(); ++told_broken_) note("skipped " + broken[told_broken_]);
    result_.broken_pictures = static_cast<int64_t>(broken.size());
  }

  // ---- guard

  void bad_step(const Stage2StepResult& result) {
    ++state_.bad_steps;
    ++bad_in_a_row_;
    note(fmt::format("step {} was skipped: {} is not finite (loss {})", step_->steps() + 1, result.not_finite,
                     result.loss));
    if (log_) log_->skipped(step_->steps() + 1, result.not_finite, result.loss);
    if (bad_in_a_row_ < options_.max_bad_steps) return;
    bad_in_a_row_ = 0;
    ErrorInfo why{.code = ErrorCode::not_finite,
                  .what = fmt::format("{} steps in a row were not finite", options_.max_bad_steps),
                  .found = "first in " + result.not_finite};
    if (last_good_.empty()) {
      why.hint = "there is no checkpoint to go back to; lower --learning-rate or raise --lr-warmup-steps";
      raise(why);
    }
    if (state_.restores >= options_.max_restores) {
      why.hint = fmt::format("the last good state is {}; go on from it with a lower --learning-rate", last_good_);
      raise(why);
    }
    go_back();
  }

  // To the last checkpoint, at a lower rate and with other data: the same ones might do the same again.
  void go_back() {
    RunState state = state_;
    restore(last_good_);
    state.lr_factor *= options_.restore_lr_factor;
    ++state.restores;
    state_ = state;
    note(fmt::format("the learning rate is {} of what it was from here on", state_.lr_factor));
    if (log_) log_->restored(step_->steps(), state_.lr_factor);
    meter_ = {};
  }

  // ---- what stays

  void save_checkpoint() {
    const int64_t step = step_->steps();
    const std::string folder = checkpoint_path(options_.output_dir, step);
    if (folder == last_good_) return;
    if (first()) observer_.phase("checkpoint", 0, 1);
    step_->save(folder, Json{{"trainer", state_.json()}},
                [this](const StagedFolder& staged) { setup_.scheduler.save_pretrained(staged.at("scheduler")); });
    last_good_ = result_.checkpoint = folder;
    if (first()) {
      if (options_.checkpoints_total_limit) prune_checkpoints(options_.output_dir, *options_.checkpoints_total_limit);
      observer_.phase("checkpoint", 1, 1);
    }
    ranks_.barrier();
  }

  // Averages where there are any. Of all ranks together.
  models::ModelSource weights_to_show() const {
    return trained_source(*model_, step_->names(), options_.ema_decay ? step_->all_averages() : step_->parameters());
  }

  void validate(int64_t step) {
    const models::ModelSource weights = weights_to_show();
    if (first()) {
      observer_.phase("validation", 0, 1);
      ValidationOptions validation;
      validation.class_labels = options_.validation_class_label;
      validation.images_per_class = options_.num_validation_images;
      validation.num_inference_steps = options_.validation_num_inference_steps;
      validation.guidance_scale = options_.validation_guidance_scale;
      validation.seed = state_.seed;
      Context ctx({.device = ctx_.device(), .threads = static_cast<int>(options_.threads)});
      const std::vector<Image> pictures =
          validation_pictures(ctx, weights, load_options(), vae(), setup_.scheduler, validation);
      const std::string folder = in(options_.output_dir, fmt::format("validation/step-{}", step));
      save_pictures(folder, pictures);
      log_->pictures(step, folder, pictures.size());
      observer_.phase("validation", 1, 1);
    }
    ranks_.barrier();
    meter_.since = Clock::now();
  }

  void export_result() {
    const models::ModelSource weights = weights_to_show();
    if (first()) export_pipeline(options_.output_dir, weights, setup_.vae_folder, setup_.scheduler, setup_.id2label);
    ranks_.barrier();
  }

  const Stage2Options& options_;
  dist::Communicator& ranks_;
  TrainObserver& observer_;
  const CancelToken cancel_;
  Stage2Setup setup_;
  Context ctx_;
  RunState state_;
  std::optional<CheckpointFolder> resumed_;
  std::string last_good_;  // the checkpoint that was written or read last
  std::shared_ptr<const AutoencoderRAE> vae_;
  LatentSource source_;
  std::unique_ptr<models::RaeDitTransformer> model_;
  std::optional<Stage2Step> step_;
  std::optional<Objective> objective_;
  std::optional<SamplePlan> plan_;
  std::unique_ptr<TrainingBatches> batches_;
  std::optional<RunLog> log_;
  Meter meter_;
  int64_t bad_in_a_row_ = 0;
  size_t told_broken_ = 0;
  TrainingResult result_;
};

}  // namespace

TrainingResult train_stage2(const Stage2Options& options, dist::Communicator& ranks, TrainObserver& observer,
                            const CancelToken& cancel) {
  return Run(options, ranks, observer, cancel).run();
}

}  // namespace raedit::train
