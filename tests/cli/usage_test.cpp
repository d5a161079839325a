// Help, versions, wrong command lines: what people meet first.
#include <sys/wait.h>

#include <cstdlib>

#include "cli_test.h"

namespace raedit::cli_test {
namespace {

class UsageTest : public CliTest {
 protected:
  // With the shell's redirections, in the scratch folder. The exit code, as a shell gives it for signals too.
  int shell(const std::string& line) const {
    const std::string command = "cd '" + path(".") + "' && exec '" RAEDIT_PROGRAM "' " + line;
    const int status = std::system(("(" + command + ")").c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
};

TEST_F(UsageTest, HelpNamesEveryCommandAndShowsExamples) {
  const std::string help = expect_success({"help"});
  EXPECT_EQ(expect_success({"--help"}), help);
  for (const char* part : {"generate", "labels", "info", "reconstruct", "convert", "compare", "bench", "reuse",
                           "Examples:", "RAEDIT_MODEL_PATH"})
    EXPECT_NE(help.find(part), std::string::npos) << part;
}

TEST_F(UsageTest, EveryCommandHasHelpWithExamples) {
  for (const std::string command :
       {"generate", "labels", "info", "reconstruct", "convert", "compare", "bench", "reuse"}) {
    const std::string help = expect_success({command, "--help"});
    EXPECT_NE(help.find("Examples:\n  raedit " + command), std::string::npos) << help;
    EXPECT_NE(help.find("Usage: raedit " + command), std::string::npos) << help;
    EXPECT_EQ(expect_success({"help", command}), help);
    EXPECT_EQ(help.back(), '\n');
  }
}

TEST_F(UsageTest, GenerateHelpNamesEveryOption) {
  const std::string help = expect_success({"generate", "--help"});
  for (const char* option :
       {"--model",   "--config", "--cache-dir",   "--offline",        "--label",        "--class-id",
        "--count",   "--steps",  "--guidance",    "--guidance-start", "--guidance-end", "--encoder-reuse",
        "--seed",    "--rng",    "--latents",     "--batch-size",     "--dtype",        "--device",
        "--threads", "--output", "--output-type", "--grid",           "--json",         "--quiet"})
    EXPECT_NE(help.find(std::string(option) + " "), std::string::npos) << option;
}

// What a shell makes of a variable that is not set.
TEST_F(UsageTest, EmptyValuesAreRefused) {
  const auto before = snapshot();
  for (const std::string option : {"--calibration", "--output", "--packed-cache", "--guide", "--label"}) {
    const std::string message = "raedit: error: " + option + ": the value is empty\n";
    EXPECT_EQ(run({"generate", "--steps", "1", option, ""}).err, message);
    EXPECT_EQ(run({"generate", "--steps", "1", option + "="}).err, message);
    EXPECT_EQ(run({"generate", option + "=", "--label", "cat-face"}).err, message) << "took what follows";
  }
  expect_failure({"train", "stage2", "--cache-latents", ""}, 2, {"--cache-latents: the value is empty"});
  EXPECT_EQ(snapshot(), before);
  EXPECT_EQ(expect_success({"labels", ""}), expect_success({"labels"}));
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
      {{"--steps", "0"}, "--steps: must be from 1 to 16777216 (found 0)"},
      {{"--steps", "16777217"}, "--steps: must be from 1 to 16777216 (found 16777217)"},
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
      {{"--device", "tpu"}, "--device: must be cpu, cuda or cuda:N (found 'tpu')"},
      {{"--device", "cuda:x"}, "--device: must be cpu, cuda or cuda:N (found 'cuda:x')"},
      {{"--encoder-reuse", "0"}, "--encoder-reuse: must be a number from 1 on, or a list of steps"},
      {{"--encoder-reuse", "auto"}, "such as 0,1,2,5 (found 'auto')"},
      {{"--encoder-reuse", "0,2,"}, "(found '0,2,')"},
      {{"--encoder-reuse", "0,-2"}, "(found '0,-2')"},
      {{"--encoder-reuse", "1,2"}, "the first step of encoder_reuse must be 0"},
      {{"--encoder-reuse", "0,2,1"}, "the steps of encoder_reuse must ascend (found 1 after 2)"},
      {{"--encoder-reuse", "0,9", "--steps", "9"}, "sampling does not have (found 9, expected 0 to 8)"},
      {{"--output-type", "video"}, "--output-type: must be image or latent (found 'video')"},
      {{"--output", "picture.jpg"}, "--output: unknown kind of file (found picture.jpg"},
      {{"--output-type", "latent", "--output", "a.png"}, "--output: latents are not pictures"},
      {{"--seed", "1", "--latents", "x.safetensors"}, "--seed and --latents exclude each other"},
      {{"--rng", "torch-cpu", "--latents", "x.safetensors"}, "--rng and --latents exclude each other"},
      {{"--rng", "philox"},
       "--rng: no such stream of random numbers (found 'philox', expected torch-cpu or torch-cuda:"},
      {{"--rng", "torch-cuda"}, "RTX 4090 128, 1536; A100 108, 2048"},
      {{"--rng", "torch-cuda:sm=132"}, "(found 'torch-cuda:sm=132', expected torch-cpu or torch-cuda:sm=N,threads=N)"},
      {{"--rng", "torch-cuda:sm=0,threads=2048"}, "--rng: no GPU has this geometry (found sm=0,threads=2048"},
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
  expect_failure({"reconstruct", "a.png", "--device", "tpu"}, 2, {"--device: must be cpu, cuda or cuda:N"});
}

TEST_F(UsageTest, OutputThatCannotBePrintedIsAFailure) {
  const std::string model = " '" + source_path("models/emoji64") + "'";
  // The last prints more than stdio keeps back.
  for (const std::string& arguments : {std::string("labels"), std::string("--help"), "info --tensors --json" + model}) {
    SCOPED_TRACE(arguments);
    EXPECT_EQ(shell(arguments + " >/dev/full 2>err"), 1);
    EXPECT_EQ(slurp(path("err")), "raedit: error: cannot write to standard output: No space left on device\n");
    EXPECT_EQ(shell(arguments + " >&- 2>err"), 1);
    EXPECT_EQ(slurp(path("err")), "raedit: error: cannot write to standard output: Bad file descriptor\n");
  }
}

TEST_F(UsageTest, LostWordsOnStderrChangeNothing) {
  const std::string generate = "generate --model '" + tiny_model() + "' --steps 20 --label two --output ";
  for (const std::string to : {"2>/dev/full", "2>&-"}) {
    SCOPED_TRACE(to);
    EXPECT_EQ(shell("frobnicate " + to), 2);
    EXPECT_EQ(shell(to), 2);
    EXPECT_EQ(shell("info nowhere " + to), 1);
    EXPECT_EQ(shell("labels >/dev/full " + to), 1);
    EXPECT_EQ(shell(generate + "lost.png " + to), 0);
    EXPECT_EQ(shell(generate + "said.png 2>err"), 0);
    EXPECT_EQ(slurp(path("lost.png")), slurp(path("said.png")));
  }
}

}  // namespace
}  // namespace raedit::cli_test
