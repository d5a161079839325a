// raedit convert: help, spellings, wrong command lines.
#include <algorithm>
#include <map>
#include <regex>

#include "convert_cli.h"

namespace raedit::cli_test {
namespace {

const char* const kKinds[] = {"stage2", "rae", "pipeline", "export"};

std::string with_dashes(std::string word) {
  if (word.starts_with("--")) std::replace(word.begin(), word.end(), '_', '-');
  return word;
}

// What help says of the options: "--checkpoint_path" and so on.
Words options_in(const std::string& help) {
  Words options;
  const std::regex pattern("\n  (--[a-z0-9_-]+)");
  for (std::sregex_iterator it(help.begin(), help.end(), pattern), end; it != end; ++it) options.push_back((*it)[1]);
  return options;
}

class ConvertUsage : public CliTest {};

TEST_F(ConvertUsage, HelpNamesTheFourAndShowsExamples) {
  const std::string help = expect_success({"convert", "--help"});
  EXPECT_EQ(expect_success({"help", "convert"}), help);
  for (const char* kind : kKinds) EXPECT_TRUE(holds(help, std::string("raedit convert ") + kind)) << kind;
  const Result bare = run({"convert"});
  EXPECT_EQ(bare.exit_code, 2);
  EXPECT_EQ(bare.out, "");
  EXPECT_EQ(bare.err, help);
}

TEST_F(ConvertUsage, EachHasHelpWithAnExample) {
  for (const std::string kind : kKinds) {
    const std::string help = expect_success({"convert", kind, "--help"});
    EXPECT_EQ(expect_success({"help", "convert", kind}), help);
    EXPECT_TRUE(holds(help, "Usage: raedit convert " + kind)) << help;
    EXPECT_TRUE(holds(help, "Examples:\n  raedit convert " + kind)) << help;
    EXPECT_FALSE(std::regex_search(help, std::regex("\n  --[a-z0-9_-]+,"))) << "one spelling is enough\n" << help;
  }
}

TEST_F(ConvertUsage, TheScriptsOptionsAreThereUnderTheirNames) {
  const std::map<std::string, Words> expected{
      {"stage2",
       {"--repo_or_path", "--config_repo_or_path", "--config_path", "--output_path", "--vae_model_name_or_path",
        "--id2label_json_path", "--checkpoint_path", "--checkpoint_key", "--transformer_subfolder",
        "--scheduler_subfolder", "--cache_dir", "--disable_ema", "--safe_serialization", "--verify_load", "--dry_run"}},
      {"rae",
       {"--repo_or_path", "--output_path", "--encoder_type", "--encoder_name_or_path", "--variant", "--dataset_name",
        "--decoder_checkpoint", "--stats_checkpoint", "--decoder_config_name", "--encoder_input_size", "--patch_size",
        "--image_size", "--num_channels", "--scaling_factor", "--cache_dir", "--dry_run", "--verify_load"}},
      {"pipeline", {"--repo_or_path", "--config_path", "--output_path", "--id2label_json_path", "--latents_std"}},
      {"export", {"--model", "--output_path", "--dtype"}},
  };
  for (const auto& [kind, names] : expected) {
    const Words shown = options_in(expect_success({"convert", kind, "--help"}));
    for (const std::string& name : names)
      EXPECT_EQ(std::count(shown.begin(), shown.end(), name), 1) << kind << " " << name;
    for (const char* ours : {"--dtype", "--max_shard_bytes", "--offline", "--quiet", "--json"})
      EXPECT_EQ(std::count(shown.begin(), shown.end(), ours), 1) << kind << " " << ours;
  }
}

// Of the words on the line only the last is unknown (or the value is bad).
TEST_F(ConvertUsage, BothSpellingsAreTaken) {
  for (const std::string kind : kKinds) {
    const std::string help = expect_success({"convert", kind, "--help"});
    for (const std::string& option : options_in(help)) {
      const bool takes_value = std::regex_search(help, std::regex("\n  " + option + " [A-Z|]+"));
      for (const std::string& spelled : {option, with_dashes(option)}) {
        Words words{"convert", kind, spelled};
        if (takes_value) words.push_back("value");
        const Result result = run(words + Words{"--frobnicate"});
        EXPECT_EQ(result.exit_code, 2);
        EXPECT_FALSE(holds(result.err, "'" + spelled + "'")) << result.err;
      }
    }
  }
}

TEST_F(ConvertUsage, UnknownWordsGetTheNearestKnownOne) {
  expect_failure({"convert", "stage3"}, 2, {"unknown command 'stage3' of 'raedit convert'", "did you mean 'stage2'?"});
  expect_failure({"convert", "rae", "--encoder_tpye", "mae"}, 2,
                 {"unknown option '--encoder_tpye' of 'raedit convert rae'", "did you mean '--encoder_type'?"});
  expect_failure({"convert", "rae", "--encoder-tpye", "mae"}, 2,
                 {"unknown option '--encoder-tpye' of 'raedit convert rae'", "did you mean '--encoder-type'?"});
  expect_failure(stage2_words({"--dryrun"}), 2, {"unknown option '--dryrun'", "did you mean '--dry_run'?"});
  expect_failure(stage2_words({"surplus"}), 2, {"unexpected argument 'surplus' of 'raedit convert stage2'"});
  expect_failure({"help", "convert", "stag2"}, 2, {"unknown command 'stag2' of 'raedit convert'", "'stage2'"});
  expect_failure({"help", "info", "more"}, 2, {"unknown command 'more' of 'raedit info'"});
  expect_failure({"convert", "--frobnicate"}, 2, {"unknown option '--frobnicate' of 'raedit convert'"});
}

TEST_F(ConvertUsage, WhatIsMissing) {
  expect_failure({"convert", "stage2", "--config_path", "c.yaml", "--output_path", "out"}, 2,
                 {"--repo_or_path is required"});
  expect_failure({"convert", "stage2", "--repo_or_path", ".", "--output_path", "out"}, 2,
                 {"--config_path is required"});
  expect_failure({"convert", "rae", "--repo_or_path", ".", "--output_path", "out"}, 2, {"--encoder_type is required"});
  expect_failure({"convert", "pipeline", "--repo_or_path", "."}, 2, {"--output_path is required"});
  expect_failure({"convert", "export", "--output_path", "out"}, 2, {"--model is required"});
}

TEST_F(ConvertUsage, WrongValues) {
  expect_failure(stage2_words({"--dtype", "float64"}), 2,
                 {"--dtype: must be float32 or bfloat16 or float16 (found 'float64')"});
  expect_failure(rae_words({"--encoder_type", "clip"}), 2,
                 {"--encoder_type: must be dinov2 or siglip2 or mae (found 'clip')"});
  expect_failure(rae_words({"--image_size", "-3"}), 2, {"--image_size: must be from 1 to"});
  expect_failure(rae_words({"--scaling_factor", "nan"}), 2, {"--scaling_factor: must be a number"});
  expect_failure(rae_words({"--latents_std", "both"}), 2, {"--latents_std: must be diffusers or upstream"});
  for (const char* size : {"five", "5XB", "-1", "0", "5 G G", "1e300TB", "iB", ""})
    expect_failure(stage2_words({"--max_shard_bytes", size}), 2,
                   {"--max_shard_bytes: must be a size such as 5GB, 500MiB or 1000000"});
}

}  // namespace
}  // namespace raedit::cli_test
