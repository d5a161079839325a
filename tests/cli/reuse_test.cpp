// raedit reuse: a list that generate takes, what it says about it, and mistakes.
#include <algorithm>

#include "convert_cli.h"

namespace raedit::cli_test {
namespace {

class ReuseTest : public CliTest {
 protected:
  ReuseTest() : model_(tiny_model()) {}

  Words reuse(const Words& more) const {
    return merged({"reuse", "--model", model_, "--pictures", "3", "--steps", "7"}, more);
  }
  // What generate makes of a list, which ends in a newline when it comes from stdout.
  Json generate(std::string list, const Words& more = {}) const {
    if (!list.empty() && list.back() == '\n') list.pop_back();
    return parse_json(expect_success(merged({"generate", "--model", model_, "--class-id", "1", "--steps", "7",
                                             "--encoder-reuse", list, "--json", "--quiet", "--output", "a.png"},
                                            more)),
                      "generate");
  }

  std::string model_;
};

TEST_F(ReuseTest, PrintsAListThatGenerateTakes) {
  for (const int passes : {1, 2, 3, 6, 7}) {
    const std::string count = std::to_string(passes);
    const Result found = run(reuse({"--passes", count}));
    EXPECT_EQ(found.exit_code, 0) << found.err;
    EXPECT_EQ(std::count(found.out.begin(), found.out.end(), '\n'), 1) << found.out;
    EXPECT_EQ(generate(found.out)["encoder_passes"], passes) << found.out;
    EXPECT_TRUE(holds(found.err, "sample 21/21")) << found.err;
    EXPECT_TRUE(holds(found.err, "\nsimilarity ") && holds(found.err, "; at even distance ")) << found.err;
  }
  EXPECT_EQ(expect_success(reuse({"--passes", "1"})), "7\n");  // a distance: 0 alone would be one, too
  EXPECT_EQ(expect_success(reuse({"--passes", "7"})), "0,1,2,3,4,5,6\n");
  EXPECT_EQ(expect_success({"reuse", "--model", model_, "--steps", "1", "--passes", "1"}), "1\n");
}

TEST_F(ReuseTest, JsonSaysWhatAndHowWell) {
  const Words words = reuse({"--passes", "3", "--guidance", "2", "--seed", "5"});
  const Result result = run(merged(words, {"--json"}));
  EXPECT_EQ(result.err, "");
  const Json json = parse_json(result.out, "reuse");
  EXPECT_EQ(json["command"], "reuse");
  EXPECT_EQ(json["steps"], 7);
  EXPECT_EQ(json["passes"], 3);
  EXPECT_EQ(json["pictures"], 3);
  EXPECT_EQ(json["seed"], 5);
  EXPECT_EQ(json["guidance"], 2.0);
  EXPECT_EQ(json["even"], "0,3,6");
  EXPECT_EQ(json["encoder_reuse"].get<std::string>() + "\n", expect_success(words));
  EXPECT_EQ(generate(json["encoder_reuse"], {"--guidance", "2"})["encoder_passes"], 3);
  EXPECT_LT(json["similarity"].get<double>(), 1);
  EXPECT_GE(json["similarity"].get<double>(), json["even_similarity"].get<double>());
  EXPECT_GT(json["even_similarity"].get<double>(), 0);
  const Json other = parse_json(expect_success(reuse({"--passes", "3", "--seed", "5", "--json"})), "without guidance");
  EXPECT_NE(other["similarity"], json["similarity"]);
}

TEST_F(ReuseTest, CountsThePassThatGuidanceNeeds) {
  const Words late{"--guidance", "2", "--guidance-end", "0.5"};
  const std::string list = expect_success(reuse(merged({"--passes", "3"}, late)));
  EXPECT_EQ(generate(list, late)["encoder_passes"], 3) << list;
  expect_failure(reuse(merged({"--passes", "1"}, late)), 2, {"passes are too few for this guidance", "found 1"});
}

TEST_F(ReuseTest, RefusesBadInput) {
  const Words nowhere{"reuse", "--model", "no-such-model"};
  const auto refused = [&](const Words& more, int code, const Words& parts) {
    expect_failure(merged(nowhere, more), code, parts);
  };
  refused({}, 2, {"--passes is required"});
  refused({"--passes", "0"}, 2, {"--passes: must be from 1 to 10000 (found 0)"});
  refused({"--steps", "10001", "--passes", "1"}, 2, {"--steps: must be from 1 to 10000 (found 10001)"});
  refused({"--steps", "7", "--passes", "8"}, 2,
          {"--passes: there cannot be more passes than steps (found 8", "1 to 7"});
  refused({"--passes", "2", "--pictures", "0"}, 2, {"--pictures: must be from 1 to 4096 (found 0)"});
  refused({"--passes", "2", "--dtype", "int8"}, 2, {"--dtype: must be float32 or bfloat16"});
  refused({"--passes", "2", "--guidance-start", ".8", "--guidance-end", ".2"}, 2, {"interval is reversed"});
  refused({"--passes", "2", "--pases", "3"}, 2, {"unknown option '--pases'", "did you mean '--passes'?"});
  refused({"--passes", "2"}, 1, {"no-such-model"});
  expect_failure({"reuse", "--model", model_, "--passes", "51"}, 2, {"passes is out of range", "found 51", "1 to 50"});
  expect_failure(reuse({"--passes", "2", "--guide", "nowhere"}), 1, {"nowhere"});
}

TEST_F(ReuseTest, AnInterruptPrintsNoList) {
  RunOptions options;
  options.interrupt_after_ms = 100;
  const Result result =
      run({"reuse", "--model", model_, "--steps", "1000", "--passes", "9", "--pictures", "4096"}, options);
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(holds(result.err, "raedit: error: interrupted\n")) << result.err;
}

}  // namespace
}  // namespace raedit::cli_test
