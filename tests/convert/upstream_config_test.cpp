// Upstream's YAML as transformer and scheduler configs. Expected values: what diffusers'
// convert_rae_stage2_to_diffusers.py (build_transformer_config, build_scheduler_config) computes for the same text.
#include "convert/upstream_config.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "convert/imagenet_labels.h"
#include "io/yaml.h"
#include "unit/expect_error.h"

namespace raedit::convert {
namespace {

const std::string kSmall = R"(
stage_2:
  target: stage2.models.DDT.DiTwDDTHead
  params:
    input_size: 4
    patch_size: 1
    in_channels: 8
    hidden_size: [32, 64]
    depth: [2, 1]
    num_heads: [4, 4]
    mlp_ratio: 4.0
    class_dropout_prob: 0.1
    num_classes: 10
    use_qknorm: false
    use_swiglu: true
    use_rope: true
    use_rmsnorm: true
    wo_shift: false
    use_pos_embed: true
  ckpt: 'models/stage2_model.pt'
transport:
  params:
    path_type: 'Linear'
    prediction: 'velocity'
    time_dist_type: 'uniform'
sampler:
  mode: ODE
  params:
    sampling_method: 'euler'
    num_steps: 50
    atol: 1e-6
    rtol: 1e-3
    reverse: False
guidance:
  method: 'cfg'
  scale: 1.0
  t-min: 0.0
  t-max: 1.0
misc:
  latent_size: [8, 4, 4] # [C, H, W]
  num_classes: 10
  time_dist_shift_dim: 65536
  time_dist_shift_base: 4096
)";

UpstreamConfig parse(const std::string& text) {
  return parse_upstream_config(parse_yaml(text, "config.yaml"), "config.yaml");
}

// `text` with the first `old` replaced, which must be there.
std::string with(const std::string& old, const std::string& now, std::string text = kSmall) {
  const size_t place = text.find(old);
  EXPECT_NE(place, text.npos) << old;
  return place == text.npos ? text : text.replace(place, old.size(), now);
}

Json transformer(const std::string& text) {
  const UpstreamConfig config = parse(text);
  return transformer_config(config.stage_2.value(), config.misc);
}

FlowMatchEulerDiscreteSchedulerConfig scheduler(const std::string& text) {
  return scheduler_config(parse(text));
}

TEST(UpstreamConfig, TransformerAsTheScriptHasIt) {
  EXPECT_EQ(transformer(kSmall).dump(),
            R"({"_class_name":"RAEDiT2DModel","sample_size":4,"patch_size":1,"in_channels":8,"hidden_size":[32,64],)"
            R"("depth":[2,1],"num_heads":[4,4],"mlp_ratio":4.0,"class_dropout_prob":0.1,"num_classes":10,)"
            R"("use_qknorm":false,"use_swiglu":true,"use_rope":true,"use_rmsnorm":true,"wo_shift":false,)"
            R"("use_pos_embed":true})");
}

TEST(UpstreamConfig, SmallestTransformerAsTheScriptHasIt) {
  const UpstreamConfig config = parse(
      "stage2: {params: {input_size: 16, patch_size: [1, 2], in_channels: 768, hidden_size: 384, depth: 3, num_heads: "
      "6}}\n"
      "transport: {params: {path_type: linear, prediction: VELOCITY, num_train_timesteps: 500}}\n"
      "misc: {latent_size: [768, 16, 16], num_classes: 7}\n");
  EXPECT_EQ(transformer_config(config.stage_2.value(), config.misc).dump(),
            R"({"_class_name":"RAEDiT2DModel","sample_size":16,"patch_size":[1,2],"in_channels":768,)"
            R"("hidden_size":[384,384],"depth":[3,3],"num_heads":[6,6],"mlp_ratio":4.0,"class_dropout_prob":0.1,)"
            R"("num_classes":7,"use_qknorm":false,"use_swiglu":true,"use_rope":true,"use_rmsnorm":true,)"
            R"("wo_shift":false,"use_pos_embed":true})");
  FlowMatchEulerDiscreteSchedulerConfig expected;
  expected.num_train_timesteps = 500;
  expected.shift = 6.928203230275509;
  EXPECT_EQ(scheduler_config(config), expected);
}

TEST(UpstreamConfig, EveryFlagIsPassedOn) {
  const std::string flags[] = {"use_qknorm: false", "use_swiglu: true", "use_rope: true",
                               "use_rmsnorm: true", "wo_shift: false",  "use_pos_embed: true"};
  for (const std::string& flag : flags) {
    const std::string key = flag.substr(0, flag.find(':'));
    const bool value = flag.ends_with("true");
    const Json json = transformer(with(flag, key + (value ? ": false" : ": true")));
    for (const std::string& other : flags) {
      const bool expected = other == flag ? !value : other.ends_with("true");
      EXPECT_EQ(json.at(other.substr(0, other.find(':'))).get<bool>(), expected) << flag << ", " << other;
    }
  }
  EXPECT_EQ(transformer(with("mlp_ratio: 4.0", "mlp_ratio: 3"))["mlp_ratio"].dump(), "3.0");
  EXPECT_EQ(transformer(with("class_dropout_prob: 0.1", "class_dropout_prob: 0"))["class_dropout_prob"], 0.0);
  EXPECT_EQ(transformer(with("patch_size: 1", "patch_size: [2, 2]"))["patch_size"].dump(), "2");
  EXPECT_EQ(transformer(with("input_size: 4", "input_size: 4.0"))["sample_size"].dump(), "4");
}

TEST(UpstreamConfig, NumClassesFallsBackToMiscAndThenTo1000) {
  const std::string without =
      with("    num_classes: 10\n", "", with("num_classes: 10\n  time", "num_classes: 11\n  time"));
  EXPECT_EQ(transformer(without)["num_classes"], 11);
  EXPECT_EQ(transformer(with("  num_classes: 11\n", "", without))["num_classes"], 1000);
}

TEST(UpstreamConfig, SchedulerAsTheScriptHasIt) {
  FlowMatchEulerDiscreteSchedulerConfig expected;
  expected.shift = 4.0;
  EXPECT_EQ(scheduler(kSmall), expected);
  // the sizes of upstream's models at 256 and 512 pixels
  const std::string no_dim = with("  time_dist_shift_dim: 65536\n", "");
  EXPECT_EQ(scheduler(with("[8, 4, 4]", "[768, 16, 16]", no_dim)).shift, 6.928203230275509);
  EXPECT_EQ(scheduler(with("[8, 4, 4]", "[768, 32, 32]", no_dim)).shift, 13.856406460551018);
  EXPECT_EQ(scheduler(with("shift_base: 4096", "shift_base: 16384")).shift, 2.0);
  EXPECT_EQ(scheduler("misc: {latent_size: [4, 32, 32]}").shift, 1.0);  // no transport: Linear and velocity
}

TEST(UpstreamConfig, ReadsWhatUpstreamSamplesWith) {
  const UpstreamConfig config = parse(kSmall);
  EXPECT_EQ(config.where, "config.yaml");
  EXPECT_EQ(config.num_steps, 50);
  EXPECT_TRUE(config.sampler["params"]["atol"].is_number_float());
  EXPECT_EQ(config.sampler["params"]["atol"].get<double>(), 1e-6);
  EXPECT_EQ(config.transport_params["time_dist_type"], "uniform");
  EXPECT_EQ(config.stage_2->ckpt, "models/stage2_model.pt");
  EXPECT_EQ(config.stage_2->where, "config.yaml: stage_2");
  EXPECT_FALSE(config.stage_1 || config.guidance_model);

  const UpstreamConfig other = parse(with("num_steps: 50", "num_steps: 7",
                                          with("t-min: 0.0\n  t-max: 1.0", "t_min: 0.25\n  t_max: 0.75",
                                               with("scale: 1.0", "scale: 1.42", with("'cfg'", "autoguidance")))));
  EXPECT_EQ(other.num_steps, 7);
  EXPECT_EQ(other.guidance_method, "autoguidance");
  EXPECT_EQ(other.guidance_scale, 1.42);
  EXPECT_EQ(other.guidance_t_min, 0.25);
  EXPECT_EQ(other.guidance_t_max, 0.75);
  // both spellings: the hyphen wins
  EXPECT_EQ(parse("guidance: {t_min: 0.5, t-min: 0.25, t-max: 0.75, t_max: 0.5}").guidance_t_min, 0.25);
  EXPECT_EQ(parse("guidance: {t_min: 0.5, t-min: 0.25, t-max: 0.75, t_max: 0.5}").guidance_t_max, 0.75);
}

TEST(UpstreamConfig, SectionsMayBeMissing) {
  const UpstreamConfig config = parse("misc:\n");
  EXPECT_FALSE(config.stage_1 || config.stage_2 || config.guidance_model);
  for (const Json& section : {config.transport_params, config.sampler, config.guidance, config.misc})
    EXPECT_EQ(section, Json::object());
  EXPECT_EQ(config.num_steps, 50);
  EXPECT_EQ(config.guidance_method, "cfg");
  EXPECT_EQ(config.guidance_scale, 1.0);
  EXPECT_EQ(config.guidance_t_min, 0.0);
  EXPECT_EQ(config.guidance_t_max, 1.0);
}

TEST(UpstreamConfig, ReadsTheOtherModels) {
  const UpstreamConfig config = parse(
      "stage1: {target: stage1.RAE, params: {noise_tau: 0.}, ckpt: null}\n"
      "guidance:\n  guidance_model:\n    target: stage2.models.DDT.DiTwDDTHead\n    ckpt: small.pt\n"
      "    params: {input_size: 4, in_channels: 8, hidden_size: [16, 64], depth: [1, 1], num_heads: [2, 4]}\n"
      "misc: {latent_size: [8, 4, 4], num_classes: 10}\n");
  EXPECT_EQ(config.stage_1->target, "stage1.RAE");
  EXPECT_EQ(config.stage_1->params.dump(), R"({"noise_tau":0.0})");
  EXPECT_FALSE(config.stage_1->ckpt);
  EXPECT_EQ(config.stage_1->where, "config.yaml: stage1");
  EXPECT_EQ(config.guidance_model->ckpt, "small.pt");
  const Json guide = transformer_config(*config.guidance_model, config.misc);
  EXPECT_EQ(guide["hidden_size"].dump(), "[16,64]");
  EXPECT_EQ(guide["num_classes"], 10);
  UpstreamModel wrong = *config.guidance_model;
  wrong.params["depth"] = "deep";
  EXPECT_RAEDIT_ERROR(transformer_config(wrong, config.misc), ErrorCode::format,
                      "config.yaml: guidance.guidance_model.params.depth", "\"deep\"");
}

TEST(UpstreamConfig, NamesTheKeyThatIsMissing) {
  const std::string keys[] = {"input_size: 4", "in_channels: 8", "hidden_size: [32, 64]", "depth: [2, 1]",
                              "num_heads: [4, 4]"};
  for (const std::string& key : keys)
    EXPECT_RAEDIT_ERROR(transformer(with("    " + key + "\n", "")), ErrorCode::format, "missing",
                        "config.yaml: stage_2.params." + key.substr(0, key.find(':')));
  EXPECT_RAEDIT_ERROR(transformer(with("hidden_size", "hiden_size")), ErrorCode::format,
                      "config.yaml: stage_2.params.hidden_size", "'hiden_size'");
  EXPECT_RAEDIT_ERROR(transformer("stage_2: {}"), ErrorCode::format, "config.yaml: stage_2.params.hidden_size");
  EXPECT_RAEDIT_ERROR(scheduler(with("latent_size: [8, 4, 4]", "")), ErrorCode::format,
                      "config.yaml: misc.latent_size");
}

TEST(UpstreamConfig, NamesTheKeyThatIsUnknown) {
  EXPECT_RAEDIT_ERROR(transformer(with("use_rmsnorm", "use_rmsnrom")), ErrorCode::format,
                      "config.yaml: stage_2.params.use_rmsnrom", "did you mean 'use_rmsnorm'?");
  EXPECT_RAEDIT_ERROR(transformer(with("wo_shift: false", "learn_sigma: false")), ErrorCode::format,
                      "config.yaml: stage_2.params.learn_sigma", "wo_shift");
}

TEST(UpstreamConfig, NamesTheValueThatIsWrong) {
  const auto refuse = [](const std::string& old, const std::string& now, const std::string& where) {
    EXPECT_RAEDIT_ERROR(transformer(with(old, now)), ErrorCode::format, "config.yaml: " + where);
  };
  refuse("[32, 64]", "[32]", "stage_2.params.hidden_size");
  refuse("[32, 64]", "[32, 64, 64]", "stage_2.params.hidden_size");
  refuse("[32, 64]", "[32, 64.5]", "stage_2.params.hidden_size");
  refuse("[32, 64]", "'32'", "stage_2.params.hidden_size");
  refuse("depth: [2, 1]", "depth: true", "stage_2.params.depth");
  refuse("input_size: 4", "input_size: [4, 4]", "stage_2.params.input_size");
  refuse("input_size: 4", "input_size: 4.5", "stage_2.params.input_size");
  refuse("input_size: 4", "input_size: 18446744073709551615", "stage_2.params.input_size");
  refuse("in_channels: 8", "in_channels: null", "stage_2.params.in_channels");
  refuse("mlp_ratio: 4.0", "mlp_ratio: '4'", "stage_2.params.mlp_ratio");
  refuse("mlp_ratio: 4.0", "mlp_ratio: .inf", "stage_2.params.mlp_ratio");
  refuse("use_rope: true", "use_rope: 'false'", "stage_2.params.use_rope");
  refuse("num_classes: 10", "num_classes:", "stage_2.params.num_classes");
  refuse("[8, 4, 4]", "[8, 4]", "misc.latent_size");
  refuse("[8, 4, 4]", "8", "misc.latent_size");
  refuse("[8, 4, 4]", "[8, 4, 5]", "misc.latent_size");
  refuse("[8, 4, 4]", "[9, 4, 4]", "misc.latent_size");
  refuse("ckpt: 'models/stage2_model.pt'", "ckpt: 3", "stage_2.ckpt");
  refuse("target: stage2.models.DDT.DiTwDDTHead", "target: [1]", "stage_2.target");
  EXPECT_RAEDIT_ERROR(transformer(with("[8, 4, 4]", "[8, 8, 8]")), ErrorCode::format, "[8,8,8]", "[8,4,4]");
}

TEST(UpstreamConfig, NamesTheSectionThatIsWrong) {
  const auto refuse = [](const std::string& text, const std::string& where) {
    EXPECT_RAEDIT_ERROR(parse(text), ErrorCode::format, "config.yaml: " + where);
  };
  refuse("stage_2: word", "stage_2");
  refuse("stage_2: {params: [1]}", "stage_2.params");
  refuse("transport: [1]", "transport");
  refuse("transport: {params: 3}", "transport.params");
  refuse("sampler: 3", "sampler");
  refuse("sampler: {params: {num_steps: many}}", "sampler.params.num_steps");
  refuse("sampler: {params: {num_steps: 0}}", "sampler.params.num_steps");
  refuse("guidance: {scale: high}", "guidance.scale");
  refuse("guidance: {t-min: .nan}", "guidance.t-min");
  refuse("guidance: {t_max: [1]}", "guidance.t_max");
  refuse("guidance: {guidance_model: word}", "guidance.guidance_model");
  refuse("misc: [1]", "misc");
  EXPECT_RAEDIT_ERROR(parse("[1, 2]"), ErrorCode::format, "config.yaml", "a mapping");
}

TEST(UpstreamConfig, RefusesWhatHasNoCounterpart) {
  EXPECT_RAEDIT_ERROR(transformer(with("DDT.DiTwDDTHead", "lightningDiT.LightningDiT")), ErrorCode::unsupported,
                      "config.yaml: stage_2.target", "stage2.models.lightningDiT.LightningDiT", "DiTwDDTHead");
  EXPECT_RAEDIT_ERROR(transformer(with("DiTwDDTHead", "NotDiTwDDTHead")), ErrorCode::unsupported, "NotDiTwDDTHead");
  EXPECT_RAEDIT_ERROR(scheduler(with("'Linear'", "GVP")), ErrorCode::unsupported, "transport.params.path_type", "GVP");
  EXPECT_RAEDIT_ERROR(scheduler(with("'velocity'", "noise")), ErrorCode::unsupported, "transport.params.prediction",
                      "noise");
  EXPECT_RAEDIT_ERROR(scheduler(with("'Linear'", "3")), ErrorCode::format, "transport.params.path_type");
}

TEST(UpstreamConfig, RefusesShiftsThatAreNone) {
  EXPECT_RAEDIT_ERROR(scheduler(with("dim: 65536", "dim: 0")), ErrorCode::format, "misc.time_dist_shift_dim");
  EXPECT_RAEDIT_ERROR(scheduler(with("base: 4096", "base: 0")), ErrorCode::format, "misc.time_dist_shift_base");
  EXPECT_RAEDIT_ERROR(scheduler(with("base: 4096", "base: -1")), ErrorCode::format, "misc.time_dist_shift_base");
  EXPECT_RAEDIT_ERROR(scheduler(with("[8, 4, 4]", "[8, 0, 4]")), ErrorCode::format, "misc.latent_size");
  EXPECT_RAEDIT_ERROR(scheduler(with("[8, 4, 4]", "[4294967296, 4294967296, 4]")), ErrorCode::format,
                      "misc.latent_size");
  EXPECT_RAEDIT_ERROR(scheduler(with("time_dist_type: 'uniform'", "num_train_timesteps: 0")), ErrorCode::format,
                      "transport.params.num_train_timesteps");
}

TEST(ImagenetLabels, AreTheThousandClassesInOrder) {
  const std::map<int64_t, std::string> labels = imagenet_1k_labels();
  ASSERT_EQ(labels.size(), 1000u);
  EXPECT_EQ(labels.begin()->first, 0);
  EXPECT_EQ(labels.rbegin()->first, 999);
  EXPECT_EQ(labels.at(0), "tench, Tinca tinca");
  EXPECT_EQ(labels.at(1), "goldfish, Carassius auratus");
  EXPECT_EQ(labels.at(134), "crane");
  EXPECT_EQ(labels.at(207), "golden retriever");
  EXPECT_EQ(labels.at(319),
            "dragonfly, darning needle, devil's darning needle, sewing needle, snake feeder, snake "
            "doctor, mosquito hawk, skeeter hawk");
  EXPECT_EQ(labels.at(388), "giant panda, panda, panda bear, coon bear, Ailuropoda melanoleuca");
  EXPECT_EQ(labels.at(517), "crane");
  EXPECT_EQ(labels.at(638), "maillot");
  EXPECT_EQ(labels.at(639), "maillot, tank suit");
  EXPECT_EQ(labels.at(980), "volcano");
  EXPECT_EQ(labels.at(999), "toilet tissue, toilet paper, bathroom tissue");
  std::set<std::string> different;
  for (const auto& [id, label] : labels) different.insert(label);
  EXPECT_EQ(different.size(), 999u);  // the two cranes
  EXPECT_FALSE(different.contains(""));
}

}  // namespace
}  // namespace raedit::convert
