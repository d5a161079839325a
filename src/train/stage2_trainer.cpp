#include "train/stage2_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>
#include <set>
#include <sstream>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"
#include "train/checkpoints.h"
#include "train/memory_plan.h"
#include "train/resumed_options.h"
#include "train/run_log.h"
#include "train/run_state.h"
#include "train/stage2_config.h"
#include "train/stage2_export.h"
#include "train/stage2_setup.h"
#include "train/training_batches.h"
#include "train/transformer_weights.h"
#include "train/validation.h"

namespace raedit::train {
namespace fs = std::filesystem;
namespace {

std::string in(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

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
    announce_data();
    open_latents();
    if (ranks_.any(cancel_.cancelled())) return interrupted_before_steps();
    make_model();
    announce_run();
    begin_logs();
    saving_what_was_reached([this] {
      train();
      if (!result_.interrupted) export_result();
    });
    if (result_.interrupted) {
      if (meter_.steps > 0) report(step_->steps());
      if (step_->steps() > 0) save_checkpoint();
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
    if (first()) {
      if (options_.resume_from_checkpoint.empty())
        refuse_another_run();
      else
        find_first_ranks_checkpoint();
      create_directories(dir);
      remove_leftovers(dir);
    }
    spread_checkpoint();
    state_.seed = first_ranks_seed();
  }

  void refuse_another_run() const {
    const std::vector<CheckpointFolder> there = list_checkpoints(options_.output_dir);
    const std::string metrics = in(options_.output_dir, "metrics.jsonl");
    RAEDIT_CHECK(there.empty() && !is_file(metrics), {.code = ErrorCode::invalid_argument,
                                                      .what = "there is another run",
                                                      .where = "--output-dir",
                                                      .found = there.empty() ? metrics : there.back().path,
                                                      .hint = "go on with --resume latest, or choose another folder"});
  }

  void find_first_ranks_checkpoint() {
    resumed_ = find_checkpoint(options_.output_dir, options_.resume_from_checkpoint);
    if (!resumed_) return note("no checkpoint in " + options_.output_dir + " yet: a new run begins");
    // They would be taken for later states of this run.
    std::error_code error;
    for (const CheckpointFolder& other : list_checkpoints(options_.output_dir))
      RAEDIT_CHECK(other.step < resumed_->step || fs::equivalent(other.path, resumed_->path, error),
                   {.code = ErrorCode::invalid_argument,
                    .what = "--output-dir has a later checkpoint than the one to go on from",
                    .where = resumed_->path,
                    .found = other.path,
                    .hint = "go on from 'latest', move the later ones away, or choose another --output-dir"});
  }

  // All ranks go on from the first one's.
  void spread_checkpoint() {
    const std::string path = ranks_.broadcast(resumed_ ? resumed_->path : std::string(), 0);
    const bool seen = path.empty() || is_file(in(path, "trainer_state.json"));
    RAEDIT_CHECK(!ranks_.any(!seen), {.code = ErrorCode::not_found,
                                      .what = "not every rank sees the checkpoint of the first",
                                      .where = path,
                                      .hint = "--output-dir must be on a file system that all ranks share"});
    if (!path.empty()) resumed_ = find_checkpoint(options_.output_dir, path);
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

  void announce_data() {
    for (const std::string& line : setup_.notes) note(line);
    note(fmt::format("{} pictures in {} classes, latents {}", setup_.pictures->size(),
                     setup_.pictures->classes().size(), setup_.latent_shape.str()));
  }

  // What a checkpoint may have said otherwise: the seed and the scheduler.
  void announce_run() {
    note(fmt::format("{} steps of {} pictures ({} x {} x {}: batch, accumulation, ranks), {:.1f} epochs, seed {}",
                     setup_.max_train_steps, setup_.cut.global_batch(), setup_.cut.batch, setup_.cut.accumulation,
                     setup_.cut.ranks, static_cast<double>(setup_.max_train_steps) / setup_.steps_per_epoch(),
                     state_.seed));
    note(fmt::format("flow shift {:.4f}; {}", setup_.scheduler.config().shift, ctx_.description()));
  }

  LoadOptions load_options() {
    return {.dtype = setup_.dtype,
            .device = ctx_.device(),
            .threads = static_cast<int>(options_.threads),
            .note = [this](const std::string& line) { note(line); }};
  }

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
    if (ranks_.any(!LatentCache::exists(options_.cache_latents))) build_cache(key);
    source_.cache = std::make_shared<const LatentCache>(LatentCache::open(options_.cache_latents, key));
    const std::vector<std::string>& broken = source_.cache->broken();
    RAEDIT_CHECK(broken.empty() || options_.skip_broken,
                 {.code = ErrorCode::format,
                  .what = "the latent cache was made without pictures that cannot be read",
                  .where = options_.cache_latents,
                  .found = fmt::format("{}: {}", broken.size(), broken.empty() ? "" : broken.front()),
                  .hint = "--skip-broken goes on without them"});
    if (!broken.empty()) note(fmt::format("{} pictures were skipped, the first {}", broken.size(), broken.front()));
    result_.broken_pictures = static_cast<int64_t>(broken.size());
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
                                                 setup_.model.num_classes, source_);
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
    check_data(state.at("trainer"), where);
    if (const Json& trainer = state.at("trainer"); trainer.contains("options"))
      for (const std::string& line : changed_options(trainer.at("options"), deciding_options(options_))) note(line);
    if (is_file(in(folder, "scheduler/scheduler_config.json")))
      setup_.scheduler = FlowMatchEulerDiscreteScheduler::from_pretrained(in(folder, "scheduler"));
    last_good_ = result_.checkpoint = folder;
    note(fmt::format("goes on behind step {} of {}", step_->steps(), folder));
  }

  void begin_logs() {
    if (!first()) return;
    write_file(in(options_.output_dir, "id2label.json"), class_json().dump(2) + "\n");
    const std::string events =
        options_.report_to == "tensorboard" ? in(options_.output_dir, options_.logging_dir) : std::string();
    std::optional<int64_t> resume_step;
    if (!options_.resume_from_checkpoint.empty()) resume_step = step_->steps();
    log_.emplace(options_.output_dir, events, resume_step);
  }

  // Ids that mean other classes would be learnt wrong; other pictures only come in another order.
  void check_data(const Json& state, const std::string& where) {
    const Json& classes = state.at("classes");
    RAEDIT_CHECK(classes == class_json(), {.code = ErrorCode::invalid_argument,
                                           .what = "the data have other classes than those that were trained on",
                                           .where = where,
                                           .found = class_json().dump(),
                                           .expected = classes.dump()});
    if (state.at("pictures") != setup_.pictures->size())
      note(fmt::format("there are {} pictures now, and were {}: what comes is another shuffle", setup_.pictures->size(),
                       state.at("pictures").dump()));
  }

  Json class_json() const {
    Json names = Json::object();
    for (size_t i = 0; i < setup_.class_ids.size(); ++i)
      names[std::to_string(setup_.class_ids[i])] = setup_.pictures->classes()[i];
    return names;
  }

  Json state_json() const {
    Json json = state_.json();
    json["pictures"] = setup_.pictures->size();
    json["classes"] = class_json();
    json["options"] = deciding_options(options_);
    return json;
  }

  // ---- steps

  // A picture that cannot be read, or a full disk for validation or the export, must not cost the steps that were
  // taken.
  template <typename Work>
  void saving_what_was_reached(const Work& work) {
    try {
      work();
    } catch (const Error&) {
      if (ranks_.size() == 1 && step_->steps() > 0) try_to_save();
      throw;
    }
  }

  void try_to_save() noexcept {
    try {
      save_checkpoint();
      if (!last_good_.empty()) note("what was reached is in " + last_good_);
    } catch (const std::exception&) {  // what failed first is told
    }
  }

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
      const double seconds = meter_.seconds();
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
    }
    tell_broken();
    meter_ = {};
  }

  // Of all ranks. Two of them may meet the same picture.
  void tell_broken() {
    if (source_.cache) return;
    const std::vector<std::string> broken = batches_->broken();
    std::string fresh;
    for (; told_broken_ < broken.size(); ++told_broken_) fresh += broken[told_broken_] + "\n";
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      std::istringstream lines(ranks_.broadcast(fresh, rank));
      for (std::string line; std::getline(lines, line);)
        if (broken_.insert(line).second) note("skipped " + line);
    }
    result_.broken_pictures = static_cast<int64_t>(broken_.size());
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
    go_back(result);
  }

  // To the last checkpoint, at a lower rate and with other data: the same ones might do the same again.
  void go_back(const Stage2StepResult& bad) {
    RunState state = state_;
    restore(last_good_);
    state.lr_factor *= options_.restore_lr_factor;
    ++state.restores;
    state_ = state;
    note(fmt::format("the learning rate is {} of what it was from here on", state_.lr_factor));
    if (log_) log_->restored(step_->steps(), state_.lr_factor, bad.not_finite, bad.loss);
    meter_ = {};
  }

  // ---- what stays

  void save_checkpoint() {
    const int64_t step = step_->steps();
    const std::string folder = checkpoint_path(options_.output_dir, step);
    if (folder == last_good_) return save_state_alone(folder);
    if (!weights_are_finite()) return note("nothing is saved: the weights are not finite");
    const Meter::Clock::time_point begin = Meter::Clock::now();
    if (first()) observer_.phase("checkpoint", 0, 1);
    step_->save(folder, Json{{"trainer", state_json()}},
                [this](const StagedFolder& staged) { setup_.scheduler.save_pretrained(staged.at("scheduler")); });
    last_good_ = result_.checkpoint = folder;
    if (first()) {
      if (options_.checkpoints_total_limit) prune_checkpoints(options_.output_dir, *options_.checkpoints_total_limit);
      observer_.phase("checkpoint", 1, 1);
    }
    ranks_.barrier();
    meter_.leave_out(begin);
  }

  // A step with finite gradients may still have left the range of its numbers; the next one will show it.
  bool weights_are_finite() const {
    const auto& values = step_->parameters();
    return std::all_of(values.begin(), values.end(),
                       [this](const Tensor& value) { return std::isfinite(ctx_.kernels().sum_of_squares(value)); });
  }

  // The model is that of the checkpoint, but the run went back to it since, or skipped steps.
  void save_state_alone(const std::string& folder) const {
    if (!first()) return;
    const std::string path = in(folder, "trainer_state.json");
    Json state = parse_json(read_file(path), path);
    if (state.at("trainer") == state_json()) return;
    state["trainer"] = state_json();
    write_file(path, state.dump(2) + "\n");
  }

  // Averages where there are any. Of all ranks together.
  models::ModelSource weights_to_show() const {
    return trained_source(*model_, step_->names(), options_.ema_decay ? step_->all_averages() : step_->parameters());
  }

  void validate(int64_t step) {
    const Meter::Clock::time_point begin = Meter::Clock::now();
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
    meter_.leave_out(begin);
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
  size_t told_broken_ = 0;        // of this rank's
  std::set<std::string> broken_;  // of all ranks
  TrainingResult result_;
};

}  // namespace

TrainingResult train_stage2(const Stage2Options& options, dist::Communicator& ranks, TrainObserver& observer,
                            const CancelToken& cancel) {
  return Run(options, ranks, observer, cancel).run();
}

}  // namespace raedit::train
