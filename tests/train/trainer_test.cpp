// Whole runs of the trainer: what they leave behind, that a stop changes no bit of them, and what makes them refuse.
// Has a twin for every test of the trainer in diffusers' pull request 13231 (test_rae_dit.py).
#include <gtest/gtest.h>

#include <filesystem>

#include "core/json.h"
#include "io/hash.h"
#include "io/safetensors.h"
#include "raedit/rae_dit_pipeline.h"
#include "train/checkpoints.h"
#include "train/stage2_setup.h"
#include "train/trainer_run.h"

namespace raedit::train {
namespace {

namespace fs = std::filesystem;
using test::ScratchFolder;
using test::slurp;

// A digest: messages stay readable.
std::string weights_of(const std::string& folder) {
  return sha256_of_file(folder + "/diffusion_pytorch_model.safetensors");
}

TEST(Trainer, TwoStepsLeaveAPipelineAndAllThatWasAskedFor) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.validation_steps = 1;
  o.validation_class_label = {1, 2};
  o.num_validation_images = 2;
  o.validation_num_inference_steps = 2;
  o.validation_guidance_scale = 2.0;
  Watcher watcher;
  const TrainingResult result = train(o, watcher);
  EXPECT_EQ(result.steps, 2);
  EXPECT_FALSE(result.interrupted);
  ASSERT_EQ(watcher.reports.size(), 2u);
  EXPECT_EQ(watcher.reports[1].max_train_steps, 2);
  EXPECT_GT(watcher.reports[0].loss, 0.5);  // noise - latents, guessed as 0
  EXPECT_GT(watcher.reports[0].grad_norm, 0.0);
  EXPECT_EQ(watcher.reports[0].lr, 1e-3);

  for (const char* name : {"transformer/config.json", "transformer/diffusion_pytorch_model.safetensors",
                           "scheduler/scheduler_config.json", "vae/config.json", "model_index.json", "metrics.jsonl"})
    EXPECT_TRUE(is_file(o.output_dir + "/" + name)) << name;
  const Json names = parse_json(slurp(o.output_dir + "/id2label.json"), "id2label.json");
  EXPECT_EQ(names, (Json{{"0", "class-0"}, {"1", "class-1"}, {"2", "class-2"}}));
  for (int i = 0; i < 4; ++i) {
    const std::string path = o.output_dir + "/validation/step-1/image-" + std::to_string(i) + ".png";
    ASSERT_TRUE(is_file(path)) << path;
    const Image image = load_png(path);
    EXPECT_EQ(image.width, 32);
    EXPECT_EQ(image.height, 32);
  }
  int event_files = 0;
  for (const auto& entry : fs::directory_iterator(o.output_dir + "/logs"))
    event_files += entry.path().filename().string().find("tfevents") != std::string::npos ? 1 : 0;
  EXPECT_EQ(event_files, 1);

  const RAEDiTPipeline pipeline = RAEDiTPipeline::from_pretrained(o.output_dir);
  EXPECT_EQ(pipeline.get_label_ids({"class-2"}), std::vector<int64_t>{2});
  Context ctx;
  RAEDiTPipelineArguments arguments;
  arguments.class_labels = {0};
  arguments.num_inference_steps = 2;
  EXPECT_EQ(pipeline(ctx, arguments).pictures.size(), 1u);
}

// Every way in which numbers reach a step.
struct Way {
  const char* name;
  bool cached = false, ema = false, bf16 = false, flip = false, random_crop = false;
  int64_t accumulation = 1;
};

void PrintTo(const Way& way, std::ostream* out) {
  *out << way.name;
}

class Resuming : public testing::TestWithParam<Way> {
 protected:
  Stage2Options options(const ScratchFolder& scratch, const std::string& pictures, const char* run) const {
    const Way& way = GetParam();
    Stage2Options o = small_run(scratch, pictures);
    o.output_dir = scratch / run;
    o.max_train_steps = 7;
    o.lr_scheduler = "cosine";
    o.lr_warmup_steps = 2;
    o.gradient_accumulation_steps = way.accumulation;
    if (way.cached) o.cache_latents = scratch / "latents";
    if (way.ema) o.ema_decay = 0.9;
    o.ema_warmup = way.ema;
    o.random_flip = way.flip;
    o.center_crop = !way.random_crop;
    if (way.random_crop) o.resolution = 40;
    if (way.bf16) o.mixed_precision = "bf16";
    return o;
  }
};

TEST_P(Resuming, ChangesNoBit) {
  const ScratchFolder scratch;
  const std::string pictures = make_pictures(scratch);
  Stage2Options whole = options(scratch, pictures, "whole");
  train(whole);

  // Stopped by the user behind step 3, by the end of its budget behind step 5, and then to the end.
  Stage2Options cut = options(scratch, pictures, "cut");
  Watcher watcher;
  watcher.cancel_at = 3;
  const TrainingResult stopped = train(cut, watcher);
  EXPECT_TRUE(stopped.interrupted);
  EXPECT_EQ(stopped.steps, 3);
  EXPECT_EQ(stopped.checkpoint, cut.output_dir + "/checkpoint-3");
  EXPECT_FALSE(fs::exists(cut.output_dir + "/transformer"));
  cut.resume_from_checkpoint = "latest";
  cut.checkpointing_steps = 5;
  cut.dataloader_num_workers = 0;
  cut.seed.reset();  // that of the checkpoint
  Watcher second;
  second.cancel_at = 5;
  EXPECT_EQ(train(cut, second).steps, 5);
  EXPECT_EQ(second.reports.front().step, 4);
  EXPECT_EQ(train(cut).steps, 7);

  EXPECT_EQ(weights_of(cut.output_dir + "/transformer"), weights_of(whole.output_dir + "/transformer"));
  EXPECT_EQ(slurp(cut.output_dir + "/transformer/config.json"), slurp(whole.output_dir + "/transformer/config.json"));
  // What they told is the same, too.
  const auto losses = [](const std::string& folder) {
    std::vector<double> found;
    std::istringstream lines(slurp(folder + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) found.push_back(parse_json(line, "metrics").at("loss"));
    return found;
  };
  EXPECT_EQ(losses(cut.output_dir), losses(whole.output_dir));
  EXPECT_EQ(losses(cut.output_dir).size(), 7u);
}

INSTANTIATE_TEST_SUITE_P(
    Trainer, Resuming,
    testing::Values(
        Way{.name = "plain"}, Way{.name = "accumulated", .accumulation = 2},
        Way{.name = "cached_flipped_averaged", .cached = true, .ema = true, .flip = true},
        Way{.name = "bf16_cached_accumulated", .cached = true, .ema = true, .bf16 = true, .accumulation = 3},
        Way{.name = "random_crops_and_flips", .flip = true, .random_crop = true}),
    [](const auto& info) { return info.param.name; });

// A latent of the cache is the one that would have been encoded, so nothing else changes either.
TEST(Trainer, ACacheChangesNoBit) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.random_flip = true;
  o.max_train_steps = 5;
  o.output_dir = scratch / "encoded";
  train(o);
  const std::string encoded = weights_of(o.output_dir + "/transformer");
  o.output_dir = scratch / "cached";
  o.cache_latents = scratch / "latents";
  Watcher first, second;
  train(o, first);
  EXPECT_EQ(first.latents_made, 1);
  EXPECT_EQ(weights_of(o.output_dir + "/transformer"), encoded);
  o.output_dir = scratch / "again";
  train(o, second);
  EXPECT_EQ(second.latents_made, 0);
  EXPECT_EQ(weights_of(o.output_dir + "/transformer"), encoded);
}

TEST(Trainer, TwoMicroBatchesAreOneBatch) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.max_train_steps = 5;
  o.train_batch_size = 4;
  o.output_dir = scratch / "one";
  Watcher one, two;
  train(o, one);
  o.train_batch_size = 2;
  o.gradient_accumulation_steps = 2;
  o.output_dir = scratch / "two";
  train(o, two);
  ASSERT_EQ(one.reports.size(), two.reports.size());
  for (size_t i = 0; i < one.reports.size(); ++i)
    EXPECT_NEAR(two.reports[i].loss, one.reports[i].loss, 1e-5 * one.reports[i].loss);
}

TEST(Trainer, LearnsWhatItSees) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch, 2, 1));
  o.max_train_steps = 100;
  o.train_batch_size = 8;
  o.learning_rate = 3e-3;
  o.cache_latents = scratch / "latents";
  o.logging_steps = 20;
  Watcher watcher;
  train(o, watcher);
  ASSERT_EQ(watcher.reports.size(), 5u);
  EXPECT_LT(watcher.reports[4].loss, 0.7 * watcher.reports[0].loss);
}

TEST(Trainer, StepsFollowFromEpochsUnlessTheyAreSaid) {
  Stage2Options o;
  o.num_train_epochs = 3;
  EXPECT_EQ(training_steps(o, 12, 6), 6);
  EXPECT_EQ(training_steps(o, 13, 6), 7);  // the last step goes on into the next epoch
  o.max_train_steps = 6;
  EXPECT_EQ(training_steps(o, 100, 1), 6);
}

TEST(Trainer, ABudgetThatIsReachedTrainsNothingMore) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.checkpointing_steps = 2;
  train(o);
  const std::string before = weights_of(o.output_dir + "/transformer");
  o.resume_from_checkpoint = "latest";
  Watcher watcher;
  EXPECT_EQ(train(o, watcher).steps, 2);
  EXPECT_TRUE(watcher.reports.empty());
  EXPECT_NE(watcher.notes.find("is reached already"), std::string::npos);
  EXPECT_EQ(weights_of(o.output_dir + "/transformer"), before);
}

TEST(Trainer, ACheckpointOfAnotherModelIsRefused) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.checkpointing_steps = 1;
  train(o);
  o.resume_from_checkpoint = "latest";
  o.max_train_steps = 3;
  o.num_layers = {3, 1};
  test::expect_error(ErrorCode::invalid_argument, {"another model", "depth [2,1]", "[3,1]"}, [&] { train(o); });
}

double shift_in(const std::string& folder) {
  return FlowMatchEulerDiscreteScheduler::from_pretrained(folder + "/scheduler").config().shift;
}

TEST(Trainer, TheSchedulerOfTheCheckpointWins) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.flow_shift = 2.5;
  o.checkpointing_steps = 1;
  o.max_train_steps = 1;
  train(o);
  EXPECT_EQ(shift_in(o.output_dir), 2.5);
  o.flow_shift = 4.0;
  o.max_train_steps = 2;
  o.resume_from_checkpoint = "checkpoint-1";
  train(o);
  EXPECT_EQ(shift_in(o.output_dir + "/checkpoint-2"), 2.5);
  EXPECT_EQ(shift_in(o.output_dir), 2.5);
}

TEST(Trainer, OtherOptionsThanBeforeAreTold) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.checkpointing_steps = 1;
  o.max_train_steps = 1;
  train(o);
  o.resume_from_checkpoint = "latest";
  o.max_train_steps = 2;
  Watcher same;
  train(o, same);
  EXPECT_NE(same.notes.find("with other options than before: max_train_steps 1 -> 2\n"), std::string::npos)
      << same.notes;
  EXPECT_EQ(same.notes.find("not taken"), std::string::npos) << same.notes;
  o.max_train_steps = 3;
  o.learning_rate = 0.5;
  o.random_flip = true;
  o.flow_shift = 4.0;
  o.seed = 77;
  o.threads = 1;
  Watcher other;
  train(o, other);
  EXPECT_NE(other.notes.find("other options than before: learning_rate 0.001 -> 0.5, "
                             "max_train_steps 2 -> 3, random_flip false -> true\n"),
            std::string::npos)
      << other.notes;
  EXPECT_NE(other.notes.find("not taken, for the run stays with what it began with: flow_shift 4.0, seed 77\n"),
            std::string::npos)
      << other.notes;
}

TEST(Trainer, AveragesAreNeitherDroppedNorMadeUp) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.checkpointing_steps = 1;
  o.max_train_steps = 1;
  train(o);
  o.max_train_steps = 2;
  o.resume_from_checkpoint = "latest";
  o.ema_decay = 0.9;
  test::expect_error(ErrorCode::invalid_argument,
                     {"checkpoint-1", "has no moving averages to go on with", "checkpoint-1/transformer"},
                     [&] { train(o); });
  o.output_dir = scratch / "averaged";
  o.max_train_steps = 1;
  o.resume_from_checkpoint = "";
  train(o);
  o.max_train_steps = 2;
  o.resume_from_checkpoint = "latest";
  o.ema_decay.reset();
  test::expect_error(
      ErrorCode::invalid_argument,
      {"checkpoint-1", "has moving averages, and this run would drop them", "expected --ema-decay", "checkpoint-1/ema"},
      [&] { train(o); });
  EXPECT_FALSE(fs::exists(o.output_dir + "/checkpoint-2"));
}

TEST(Trainer, TheDefaultShiftIsThatOfTheLatents) {
  const ScratchFolder scratch;
  const Stage2Options o = small_run(scratch, make_pictures(scratch));
  EXPECT_DOUBLE_EQ(make_stage2_setup(o, 0, 1).scheduler.config().shift, std::sqrt(128 * 4 * 4 / 4096.0));
}

// ---- going on from a pretrained transformer

class Pretrained : public testing::Test {
 protected:
  Pretrained() : options_(small_run(scratch_, make_pictures(scratch_))), stage2_(scratch_ / "stage2") {
    fs::create_directories(stage2_);
    fs::copy(kPipeline + "/transformer", stage2_ + "/transformer", fs::copy_options::recursive);
    fs::copy(kPipeline + "/scheduler", stage2_ + "/scheduler", fs::copy_options::recursive);
    Json config = parse_json(slurp(stage2_ + "/scheduler/scheduler_config.json"), "scheduler");
    config["shift"] = 3.25;
    config["num_train_timesteps"] = 500;
    write_file(stage2_ + "/scheduler/scheduler_config.json", config.dump());
    options_.num_classes.reset();
    options_.flow_shift = 1.5;
  }

  FlowMatchEulerDiscreteSchedulerConfig scheduler_from(const std::string& path) {
    options_.pretrained_transformer_model_name_or_path = path;
    return make_stage2_setup(options_, 0, 1).scheduler.config();
  }

  ScratchFolder scratch_;
  Stage2Options options_;
  const std::string stage2_;
};

TEST_F(Pretrained, TheSchedulerBesideItIsTaken) {
  for (const std::string& path : {stage2_, stage2_ + "/transformer", stage2_ + "/transformer/"}) {
    EXPECT_EQ(scheduler_from(path).shift, 3.25) << path;
    EXPECT_EQ(scheduler_from(path).num_train_timesteps, 500) << path;
  }
}

TEST_F(Pretrained, AModelsFolderAloneLeavesTheOptions) {
  fs::rename(stage2_ + "/transformer", scratch_ / "model");
  EXPECT_EQ(scheduler_from(scratch_ / "model").shift, 1.5);
}

TEST_F(Pretrained, AMissingSchedulerIsAnError) {
  fs::remove_all(stage2_ + "/scheduler");
  for (const std::string& path : {stage2_, stage2_ + "/transformer"})
    test::expect_error(ErrorCode::not_found, {"no scheduler beside it", "scheduler_config.json"},
                       [&] { scheduler_from(path); });
}

TEST_F(Pretrained, ItsWeightsAreWhereTrainingBegins) {
  options_.pretrained_transformer_model_name_or_path = stage2_;
  options_.max_train_steps = 1;
  options_.learning_rate = 1e-30;
  options_.adam_weight_decay = 0;
  train(options_);
  const auto before = SafetensorsSet::open(stage2_ + "/transformer"),
             after = SafetensorsSet::open(options_.output_dir + "/transformer");
  for (const std::string& name : before.names())
    EXPECT_EQ(after.tensor(name).to_vector<float>(), before.tensor(name).to_vector<float>()) << name;
}

TEST_F(Pretrained, MoreClassesThanItHasAreAnError) {
  options_.train_data_dir = make_pictures(scratch_, 5, 1);
  options_.pretrained_transformer_model_name_or_path = stage2_;
  test::expect_error(ErrorCode::invalid_argument, {"more classes than the model", "5 classes", "at most 4"},
                     [&] { make_stage2_setup(options_, 0, 1); });
}

// With names, new classes are added behind the old ones, and what the model knew stays where it was.
TEST_F(Pretrained, ClassesAreFoundByName) {
  const Json index{{"_class_name", "RAEDiTPipeline"},
                   {"id2label", {{"0", "class-1"}, {"1", "other"}, {"2", "class-0"}, {"3", "more"}}},
                   {"scheduler", {"diffusers", "FlowMatchEulerDiscreteScheduler"}},
                   {"transformer", {"diffusers", "RAEDiT2DModel"}},
                   {"vae", {"diffusers", "AutoencoderRAE"}}};
  write_file(stage2_ + "/model_index.json", index.dump());
  options_.pretrained_transformer_model_name_or_path = stage2_;
  const Stage2Setup setup = make_stage2_setup(options_, 0, 1);
  EXPECT_EQ(setup.class_ids, (std::vector<int64_t>{2, 0, 4}));
  EXPECT_EQ(setup.model.num_classes, 5);
  const std::map<int64_t, std::string> names{{0, "class-1"}, {1, "other"}, {2, "class-0"}, {3, "more"}, {4, "class-2"}};
  EXPECT_EQ(setup.id2label, names);
  train(options_);
  EXPECT_EQ(RAEDiTPipeline::from_pretrained(options_.output_dir).id2label(), names);
  options_.class_ids = "by-order";
  EXPECT_EQ(make_stage2_setup(options_, 0, 1).class_ids, (std::vector<int64_t>{0, 1, 2}));
}

TEST_F(Pretrained, AnotherAutoencodersTransformerIsAnError) {
  Json config = parse_json(slurp(stage2_ + "/transformer/config.json"), "config");
  config["in_channels"] = 64;
  write_file(stage2_ + "/transformer/config.json", config.dump());
  options_.pretrained_transformer_model_name_or_path = stage2_;
  test::expect_error(ErrorCode::format, {"not of this autoencoder's latents", "in_channels 64", "in_channels 128"},
                     [&] { make_stage2_setup(options_, 0, 1); });
}

// ---- refusals

TEST(TrainerRefuses, GuidanceWithoutANullClass) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.class_dropout_prob = 0.0;
  o.validation_steps = 1;
  o.validation_class_label = {0};
  o.validation_guidance_scale = 2.0;
  test::expect_error(ErrorCode::invalid_argument, {"--validation-guidance-scale", "a class that is none"},
                     [&] { make_stage2_setup(o, 0, 1); });
  o.validation_guidance_scale = 1.0;
  EXPECT_NO_THROW(make_stage2_setup(o, 0, 1));
  o.validation_class_label = {3};  // of the model's four, but the data have three
  test::expect_error(ErrorCode::invalid_argument, {"--validation-class-label", "found 3", "0 to 2"},
                     [&] { make_stage2_setup(o, 0, 1); });
}

TEST(TrainerRefuses, AFolderWithAnotherRun) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.checkpointing_steps = 1;
  train(o);
  test::expect_error(ErrorCode::invalid_argument, {"there is another run", "checkpoint-2", "--resume latest"},
                     [&] { train(o); });
}

TEST(TrainerRefuses, ABrokenPictureUnlessItMaySkipIt) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  const std::string broken = o.train_data_dir + "/class-1/2.png";
  write_file(broken, slurp(broken).substr(0, 300));
  o.max_train_steps = 12;
  o.logging_steps = 1;
  Watcher failing;
  test::expect_error(ErrorCode::format, {broken}, [&] { train(o, failing); });
  ASSERT_FALSE(failing.reports.empty());  // and the steps before it are not lost
  EXPECT_EQ(find_checkpoint(o.output_dir, "latest")->step, failing.reports.back().step);
  o.skip_broken = true;
  o.output_dir = scratch / "skipping";
  Watcher watcher;
  EXPECT_EQ(train(o, watcher).broken_pictures, 1);
  EXPECT_NE(watcher.notes.find("skipped " + broken), std::string::npos) << watcher.notes;
}

TEST(TrainerRefuses, AnAutoencoderThatCannotBeCopiedAfterTheSteps) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.pretrained_rae_model_name_or_path = scratch / "vae";
  fs::copy(kPipeline + "/vae", o.pretrained_rae_model_name_or_path, fs::copy_options::recursive);
  fs::create_symlink("nowhere", o.pretrained_rae_model_name_or_path + "/notes.txt");
  Watcher watcher;
  const std::string output = o.output_dir;
  o.output_dir = o.pretrained_rae_model_name_or_path + "/run";
  test::expect_error(ErrorCode::invalid_argument, {"--output-dir", "outside"}, [&] { train(o, watcher); });
  o.output_dir = output;
  test::expect_error(ErrorCode::io, {"cannot copy the autoencoder", scratch / "vae"}, [&] { train(o, watcher); });
  EXPECT_EQ(find_checkpoint(o.output_dir, "latest")->step, o.max_train_steps);
}

TEST(TrainerRefuses, ACacheOfOtherPictures) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.cache_latents = scratch / "latents";
  train(o);
  save_png(test::noise_image(60, 50, 99), o.train_data_dir + "/class-0/new.png");
  o.output_dir = scratch / "second";
  test::expect_error(ErrorCode::format, {"pictures"}, [&] { train(o); });
}

// ---- the guard

// From step 4 on the rate is absurd: weights overflow, and no later step is finite.
Stage2Options exploding(const ScratchFolder& scratch) {
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.lr_scheduler = "piecewise_constant";
  o.lr_step_rules = "1:3,1e42";
  o.max_train_steps = 6;
  o.checkpointing_steps = 3;
  o.max_bad_steps = 2;
  return o;
}

TEST(TrainerGuard, GoesBackAtALowerRate) {
  const ScratchFolder scratch;
  Stage2Options o = exploding(scratch);
  o.restore_lr_factor = 1e-42;
  Watcher watcher;
  const TrainingResult result = train(o, watcher);
  EXPECT_EQ(result.steps, 6);
  EXPECT_EQ(result.bad_steps, 2);
  EXPECT_NE(watcher.notes.find("was skipped: "), std::string::npos);
  EXPECT_NE(watcher.notes.find("goes on behind step 3"), std::string::npos) << watcher.notes;
  const std::string metrics = slurp(o.output_dir + "/metrics.jsonl");
  EXPECT_NE(metrics.find("\"restored\":true"), std::string::npos) << metrics;
  const auto set = SafetensorsSet::open(o.output_dir + "/transformer");
  for (const std::string& name : set.names()) {
    for (const float value : set.tensor(name).to_vector<float>()) ASSERT_TRUE(std::isfinite(value)) << name;
  }
}

TEST(TrainerGuard, SavesNothingThatIsNotFinite) {
  const ScratchFolder scratch;
  Stage2Options o = exploding(scratch);
  o.checkpointing_steps = 1;
  o.restore_lr_factor = 1e-42;
  Watcher watcher;
  EXPECT_EQ(train(o, watcher).steps, 6);
  EXPECT_NE(watcher.notes.find("nothing is saved: the weights are not finite"), std::string::npos) << watcher.notes;
  EXPECT_NE(watcher.notes.find("goes on behind step 3"), std::string::npos) << watcher.notes;
}

TEST(TrainerGuard, GivesUpAndTheLastGoodStateStays) {
  const ScratchFolder scratch;
  Stage2Options o = exploding(scratch);
  o.restore_lr_factor = 0.9;
  o.max_restores = 1;
  test::expect_error(ErrorCode::not_finite, {"2 steps in a row were not finite", "checkpoint-3"}, [&] { train(o); });
  EXPECT_EQ(find_checkpoint(o.output_dir, "latest")->step, 3);
  o.output_dir = scratch / "early";
  o.checkpointing_steps = 1000;
  test::expect_error(ErrorCode::not_finite, {"there is no checkpoint to go back to"}, [&] { train(o); });
}

TEST(Trainer, KeepsAsManyCheckpointsAsItMay) {
  const ScratchFolder scratch;
  Stage2Options o = small_run(scratch, make_pictures(scratch));
  o.max_train_steps = 7;
  o.checkpointing_steps = 2;
  o.checkpoints_total_limit = 2;
  train(o);
  std::vector<int64_t> steps;
  for (const CheckpointFolder& checkpoint : list_checkpoints(o.output_dir)) steps.push_back(checkpoint.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{4, 6}));
}

TEST(Trainer, SaysItsPlan) {
  const ScratchFolder scratch;
  const Stage2Options o = small_run(scratch, make_pictures(scratch));
  const std::string plan = describe_stage2_plan(o, 2);
  for (const char* part : {"12 in 3 classes", "[128, 4, 4]", "4 = 2 x 1 accumulation x 2 ranks", "activations"})
    EXPECT_NE(plan.find(part), std::string::npos) << part << " in\n" << plan;
  EXPECT_FALSE(fs::exists(o.output_dir));
}

}  // namespace
}  // namespace raedit::train
