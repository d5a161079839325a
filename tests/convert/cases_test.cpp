// Every conversion that the reference scripts did (tests/parity/data/convert/cases.json, written by
// tools/convert_reference.py) comes out the same: config, scheduler and tensors, bit for bit.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "convert/recipe.h"
#include "core/json.h"
#include "io/files.h"
#include "io/hash.h"
#include "io/safetensors.h"
#include "raedit/convert.h"

namespace raedit {
namespace {

namespace fs = std::filesystem;

const std::string kData = std::string(RAEDIT_TEST_DATA) + "/convert";

Json read_json(const std::string& path) {
  return parse_json(read_file(path), path);
}

// Whatever the order of the keys.
bool same(const Json& a, const Json& b) {
  return nlohmann::json::parse(a.dump()) == nlohmann::json::parse(b.dump());
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (size_t at; (at = text.find(what)) != text.npos;) text.replace(at, what.size(), by);
  return text;
}

// "--name value" pairs and switches, as the script takes them.
class Arguments {
 public:
  Arguments(const Json& args, const std::string& encoder, const std::string& vae) {
    for (size_t i = 0; i < args.size(); ++i) {
      const std::string name = args[i].get<std::string>().substr(2);
      if (name == "disable_ema")
        values_[name] = "true";
      else
        values_[name] = replaced(
            replaced(replaced(args[++i].get<std::string>(), "{data}", kData), "{encoder}", encoder), "{vae}", vae);
    }
  }
  ~Arguments() { EXPECT_TRUE(values_.empty()) << "the test does not know --" << values_.begin()->first; }

  void take(const char* name, std::string& field) {
    if (values_.contains(name)) field = values_[name];
    values_.erase(name);
  }
  void take(const char* name, int64_t& field) {
    if (values_.contains(name)) field = std::stoll(values_[name]);
    values_.erase(name);
  }
  void take(const char* name, double& field) {
    if (values_.contains(name)) field = std::stod(values_[name]);
    values_.erase(name);
  }
  void take(const char* name, bool& field) { field = values_.erase(name) > 0; }

 private:
  std::map<std::string, std::string> values_;
};

ConvertReport convert(const Json& test, const std::string& encoder, const std::string& vae,
                      const ConvertOutput& output) {
  Arguments arguments(test["args"], encoder, vae);
  if (test["command"] == "stage2" || test["command"] == "pipeline_of_stage2") {
    ConvertStage2Options o;
    arguments.take("vae_model_name_or_path", o.vae_model_name_or_path);
    arguments.take("id2label_json_path", o.id2label_json_path);
    arguments.take("repo_or_path", o.repo_or_path);
    arguments.take("config_path", o.config_path);
    arguments.take("checkpoint_path", o.checkpoint_path);
    arguments.take("checkpoint_key", o.checkpoint_key);
    arguments.take("disable_ema", o.disable_ema);
    return convert_stage2(o, output);
  }
  if (test["command"] == "pipeline") {
    ConvertPipelineOptions o;
    arguments.take("repo_or_path", o.repo_or_path);
    arguments.take("config_path", o.config_path);
    arguments.take("encoder_name_or_path", o.encoder_name_or_path);
    return convert_pipeline(o, output);
  }
  ConvertRaeOptions o;
  arguments.take("repo_or_path", o.repo_or_path);
  arguments.take("encoder_type", o.encoder_type);
  arguments.take("encoder_name_or_path", o.encoder_name_or_path);
  arguments.take("decoder_config_name", o.decoder_config_name);
  arguments.take("variant", o.variant);
  arguments.take("encoder_input_size", o.encoder_input_size);
  arguments.take("patch_size", o.patch_size);
  arguments.take("decoder_checkpoint", o.decoder_checkpoint);
  arguments.take("stats_checkpoint", o.stats_checkpoint);
  arguments.take("scaling_factor", o.scaling_factor);
  arguments.take("disable_ema", o.disable_ema);
  return convert_rae(o, output);
}

void expect_close(const Tensor& found, const Tensor& expected, const std::string& name) {
  ASSERT_EQ(found.shape(), expected.shape()) << name;
  const auto a = found.to_vector<float>(), b = expected.to_vector<float>();
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 2e-7) << name << " at " << i;
}

// One folder against what the reference made of it.
void expect_model(const std::string& folder, const std::string& expected_path, const std::set<std::string>& computed) {
  const Json expected = read_json(kData + "/" + expected_path);
  EXPECT_TRUE(same(read_json(folder + "/config.json"), expected["config"])) << expected_path;
  const SafetensorsSet weights = SafetensorsSet::open(folder);
  const SafetensorsFile tables = SafetensorsFile::open(kData + "/tables.safetensors");
  std::set<std::string> extra(weights.names().begin(), weights.names().end());
  for (const auto& [name, meant] : expected["tensors"].items()) {
    ASSERT_TRUE(weights.contains(name)) << name;
    extra.erase(name);
    const Tensor tensor = weights.tensor(name);
    if (computed.contains(name)) {
      expect_close(tensor, tables.tensor(name), name);
      continue;
    }
    EXPECT_EQ(meant[0], "F32") << name;
    EXPECT_EQ(tensor.dtype(), DType::float32) << name;
    EXPECT_EQ(tensor.shape(), Shape(meant[1].get<std::vector<int64_t>>())) << name;
    Sha256 digest;
    digest.update(tensor.raw(), tensor.nbytes());
    EXPECT_EQ(digest.hex(), meant[2].get<std::string>()) << name;
  }
  extra.erase("decoder.decoder_pos_embed");  // kept from the checkpoint; the script drops it (docs/conversion.md)
  EXPECT_TRUE(extra.empty()) << *extra.begin() << " is not in the reference's";
}

struct Case {
  Json json;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  const Json list = read_json(kData + "/cases.json");
  for (const Json& json : list["cases"]) cases.push_back({json});
  return cases;
}

void PrintTo(const Case& test, std::ostream* out) {
  *out << test.json["name"].get<std::string>();
}

class ConvertCase : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    fs::remove_all(root_);
    fs::create_directories(root_);
    if (test_.contains("encoder")) prepare(test_);
    if (!test_.contains("vae")) return;
    const std::vector<Case> cases = all_cases();
    const auto made_first =
        std::find_if(cases.begin(), cases.end(), [&](const Case& c) { return c.json["name"] == test_["vae"]; });
    ASSERT_NE(made_first, cases.end());
    prepare(made_first->json);
    vae_ = root_ + "/vae";
    ConvertOutput output;
    output.output_path = vae_;
    convert(made_first->json, encoder_, "", output);
  }
  void prepare(const Json& test) {
    encoder_ = root_ + "/encoder";
    testing::make_encoder(kData + "/" + test["encoder"].get<std::string>(), test.value("layout", "as_is"), encoder_);
  }
  void TearDown() override { fs::remove_all(root_); }

  const Json& test_ = GetParam().json;
  const std::string root_ = ::testing::TempDir() + "raedit_convert_" + test_["name"].get<std::string>();
  std::string encoder_, vae_;
};

TEST_P(ConvertCase, IsWhatTheReferenceGives) {
  const std::string out = root_ + "/out";
  ConvertOutput output;
  output.output_path = out;
  output.verify_load = true;
  if (test_.value("fails", false)) {
    try {
      convert(test_, encoder_, vae_, output);
      ADD_FAILURE() << "the reference says " << test_["reference"];
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(test_["mentions"].get<std::string>()), std::string::npos)
          << error.what();
    }
    EXPECT_FALSE(fs::exists(out));
    EXPECT_TRUE(fs::is_empty(root_)) << "something was left behind";
    return;
  }
  const ConvertReport report = convert(test_, encoder_, vae_, output);
  std::set<std::string> computed;
  if (test_.contains("computed"))
    for (const Json& name : test_["computed"]) computed.insert(name.get<std::string>());
  const Json& expected = test_["expected"];
  if (test_["command"] == "rae") {
    expect_model(out, expected.get<std::string>(), computed);
  } else {
    const std::string transformer = (expected.is_object() ? expected["transformer"] : expected).get<std::string>();
    expect_model(out + "/transformer", transformer, computed);
    const Json scheduler = read_json(kData + "/" + transformer)["scheduler"];
    EXPECT_TRUE(same(read_json(out + "/scheduler/scheduler_config.json"), scheduler));
  }
  if (expected.is_object()) expect_model(out + "/vae", expected["vae"].get<std::string>(), computed);
  const Json index = expected.is_object() ? expected.value("model_index", Json()) : Json();
  EXPECT_TRUE(index.is_null() || same(read_json(out + "/model_index.json"), index));
  if (test_.contains("guide")) expect_model(out + "/guide_transformer", test_["guide"].get<std::string>(), computed);
  const Json metadata = read_json(out + "/conversion_metadata.json");
  for (const Json& file : metadata["source"]["files"])
    EXPECT_EQ(file["sha256"], sha256_of_file(file["path"].get<std::string>()));
  EXPECT_FALSE(metadata["source"]["files"].empty());
}

INSTANTIATE_TEST_SUITE_P(Reference, ConvertCase, ::testing::ValuesIn(all_cases()),
                         [](const auto& info) { return info.param.json["name"].template get<std::string>(); });

}  // namespace
}  // namespace raedit
