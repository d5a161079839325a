// Help, versions, wrong command lines: what people meet first.
#include <sys/wait.h>

#include <cstdlib>

#include "cli_test.h"

namespace raedit::cli_test {
namespace {

using UsageTest = CliTest;

TEST_F(UsageTest, HelpNamesEveryCommandAndShowsExamples) {
  const std::string help = expect_success({"help"});
  EXPECT_EQ(expect_success({"--help"}), help);
  for (const char* part :
       {"generate", "labels", "info", "reconstruct", "compare", "bench", "Examples:", "RAEDIT_MODEL_PATH"})
    EXPECT_NE(help.find(part), std::string::npos) << part;
}

TEST_F(UsageTest, EveryCommandHasHelpWithExamples) {
  for (const std::string command : {"generate", "labels", "info", "reconstruct", "compare", "bench"}) {
    const std::string help = expect_success({command, "--help"});
    EXPECT_NE(help.find("Examples:\n  raedit " + command), std::string::npos) << help;
    EXPECT_NE(help.find("Usage: raedit " + command), std::string::npos) << help;
    EXPECT_EQ(expect_success({"help", command}), help);
    EXPECT_EQ(help.back(), '\n');
  }
}

TEST_F(UsageTest, GenerateHelpNamesEveryOption) {
  const std::string help = expect_success({"generate", "--help"});
  for (const char* option : {"--model", "--label", "--class-id", "--count", "--steps", "--guidance", "--guidance-start",
                             "--guidance-end", "--seed", "--latents", "--batch-size", "--dtype", "--device",
                             "--threads", "--output", "--output-type", "--grid", "--json", "--quiet"})
    EXPECT_NE(help.find(std::string(option) + " "), std::string::npos) << option;
}

TEST_F(UsageTest, VersionIsOneLine) {
  EXPECT_EQ(expect_success({"--version"}), "raedit " RAEDIT_TEST_VERSION "\n");
}

TEST_F(UsageTest, NoCommandShowsHelpOnStderr) {
  const Result result = run({});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find("generate"), std::string::npos);
}

TEST_F(UsageTest, UnknownWordsGetTheNearestKnownOne) {
  expect_failure({"generat"}, 2, {"unknown command 'generat'", "did you mean 'generate'?"});
  expect_failure({"generate", "--stpes", "3"}, 2, {"unknown option '--stpes'", "did you mean '--steps'?"});
  expect_failure({"--versoin"}, 2, {"unknown option '--versoin'", "did you mean '--version'?"});
  expect_failure({"help", "compar"}, 2, {"unknown command 'compar'", "did you mean 'compare'?"});
  expect_failure({"generate", "surplus"}, 2, {"unexpected argument 'surplus' of 'raedit generate'"});
  expect_failure({"labels", "--frobnicate"}, 2, {"unknown option '--frobnicate'", "see 'raedit labels --help'"});
}

TEST_F(UsageTest, MissingArguments) {
  expect_failure({"info"}, 2, {"PATH is required"});
  expect_failure({"compare", "one.safetensors"}, 2, {"B is required"});
  expect_failure({"reconstruct"}, 2, {"IMAGE is required"});
  expect_failure({"generate", "--label"}, 2, {"--label"});
  expect_failure({"generate", "--json=3"}, 2, {"json"});
}

struct BadValue {
  std::vector<std::string> arguments;
  std::string message;
};

// All of them before any model is looked for: the model named here does not exist.
TEST_F(UsageTest, ValuesOfGenerateAreCheckedBeforeTheModelIsLoaded) {
  const std::vector<BadValue> cases{
      {{"--guidance", "0.5"}, "--guidance: must be 1 or more (found 0.5)"},
      {{"--guidance", "nan"}, "--guidance: must be a number (found 'nan')"},
      {{"--guidance-start", "0.8", "--guidance-end", "0.2"}, "the guidance interval is reversed"},
      {{"--guidance-end", "1.5"}, "--guidance-end: must be from 0 to 1 (found 1.5)"},
      {{"--guidance-start", "-0.1"}, "--guidance-start: must be from 0 to 1 (found -0.1)"},
      {{"--steps", "0"}, "--steps: must be 1 or more (found 0)"},
      {{"--steps", "ten"}, "--steps: must be a whole number (found 'ten')"},
      {{"--steps", "2.5"}, "--steps: must be a whole number (found '2.5')"},
      {{"--count", "0"}, "--count: must be from 1 to 1000000 (found 0)"},
      {{"--grid", "0"}, "--grid: must be from 1 to 1000000 (found 0)"},
      {{"--grid", "2", "--output", "a.npy"}, "only a .png can be a grid"},
      {{"--batch-size", "0"}, "--batch-size: must be from 1 to 4096 (found 0)"},
      {{"--threads", "-1"}, "--threads: must be from 0 to 4096 (found -1)"},
      {{"--seed", "-1"}, "--seed: must be 0 or more (found -1)"},
      {{"--class-id", "-1"}, "--class-id: must be 0 or more (found -1)"},
      {{"--dtype", "float16"}, "--dtype: must be float32 or bfloat16 (found 'float16')"},
      {{"--device", "cuda"}, "--device: must be cpu (found 'cuda')"},
      {{"--output-type", "video"}, "--output-type: must be image or latent (found 'video')"},
      {{"--output", "picture.jpg"}, "--output: unknown kind of file (found picture.jpg"},
      {{"--output-type", "latent", "--output", "a.png"}, "--output: latents are not pictures"},
      {{"--seed", "1", "--latents", "x.safetensors"}, "--seed and --latents exclude each other"},
  };
  for (const BadValue& bad : cases) {
    SCOPED_TRACE(bad.message);
    std::vector<std::string> arguments{"generate", "--model", "no-such-model"};
    arguments.insert(arguments.end(), bad.arguments.begin(), bad.arguments.end());
    expect_failure(arguments, 2, {bad.message});
  }
}

TEST_F(UsageTest, ValuesOfOtherCommands) {
  expect_failure({"compare", "a", "b", "--atol", "-1"}, 2, {"--atol: must be 0 or more (found -1)"});
  expect_failure({"compare", "a", "b", "--rtol", "x"}, 2, {"--rtol: must be a number (found 'x')"});
  expect_failure({"reconstruct", "a.png", "--dtype", "int8"}, 2, {"--dtype: must be float32 or bfloat16"});
}

TEST_F(UsageTest, OutputThatCannotBePrintedIsAFailure) {
  const std::string command = std::string("'") + RAEDIT_PROGRAM + "' labels >/dev/full 2>/dev/null";
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1);
}

}  // namespace
}  // namespace raedit::cli_test
