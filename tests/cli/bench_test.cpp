// raedit bench, and its conversation with PyTorch's side: shell scripts stand in for that.
#include <unistd.h>

#include <csignal>

#include "cli_test.h"
#include "io/safetensors.h"

namespace raedit::cli_test {
namespace {

class BenchTest : public CliTest {
 protected:
  BenchTest() { options_.environment = {{"RAEDIT_PYTHON", "/bin/sh"}, {"OMP_WAIT_POLICY", "passive"}}; }

  // What one forward of the tiny transformer costs, measured `more` ways.
  std::vector<std::string> bench(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments{"bench", "--model", config_, "--runs", "3", "--threads", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  std::vector<std::string> compare(const std::string& script, const std::vector<std::string>& more = {}) const {
    spit(path("peer.sh"), script);
    std::vector<std::string> arguments = bench({"--compare-pytorch", "--pytorch-script", path("peer.sh")});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  // The process whose number the script left must be gone.
  void expect_ended(const std::string& file) const {
    const int id = std::stoi(slurp(path(file)));
    EXPECT_EQ(::kill(id, 0), -1) << "process " << id << " still runs";
  }

  std::string config_ = data_path("pipeline/transformer/config.json");
  RunOptions options_;
};

// Two peers, one of them absent; the turns that it gets go to a file.
const char* const kPeer =
    "read -r job; echo \"$job\" > job.json\n"
    "echo '{\"peers\":[{\"name\":\"eager\",\"amx\":true,\"kernels\":[\"matmul brg:amx\"]},"
    "{\"name\":\"graph\",\"absent\":\"not installed\"}],\"versions\":\"torch 9\",\"isa\":\"AVX9\"}'\n"
    "while read -r turn; do echo \"$turn\" >> turns; echo '{\"milliseconds\":[1000,3000]}'; done\n"
    "echo done > ended\n";

TEST_F(BenchTest, JsonHoldsTheFiguresAndTheyAgree) {
  const Json low = parse_json(expect_success(bench({"--dtype", "bfloat16", "--batch", "2", "--json"})), "bench");
  for (const char* key : {"milliseconds", "tflops", "ceiling_tflops", "fraction", "bytes", "peak_bytes", "gflop"})
    EXPECT_GT(low.at(key).get<double>(), 0) << key;
  EXPECT_NEAR(low["tflops"].get<double>() * low["milliseconds"].get<double>(), low["gflop"].get<double>(), 1e-6);
  EXPECT_NEAR(low["fraction"].get<double>() * low["ceiling_tflops"].get<double>(), low["tflops"].get<double>(), 1e-9);
  EXPECT_FALSE(low.contains("comparison"));
}

// Every tensor of the checkpoint once, of the table of classes the rows of the batch, and the input.
TEST_F(BenchTest, BytesAreThoseOfTheWeightsAndTheInput) {
  const SafetensorsFile file =
      SafetensorsFile::open(data_path("pipeline/transformer/") + "diffusion_pytorch_model.safetensors");
  const Json config = parse_json(slurp(config_), config_);
  const auto side = config["sample_size"].get<int64_t>();
  int64_t numel = 3 * config["in_channels"].get<int64_t>() * side * side;
  for (const std::string& name : file.names()) {
    const Shape shape = file.tensor(name).shape();
    numel += name.ends_with("embedding_table.weight") ? 3 * shape[1] : shape.numel();
  }
  const Json result = parse_json(expect_success(bench({"--batch", "3", "--json"})), "bench");
  EXPECT_EQ(result["bytes"].get<int64_t>(), 4 * numel);
}

TEST_F(BenchTest, ColdCachesAndText) {
  const std::string text = expect_success(bench({"--cold"}));
  EXPECT_NE(text.find("caches cold"), std::string::npos) << text;
  EXPECT_NE(text.find("MB at least"), std::string::npos) << text;
}

TEST_F(BenchTest, ConfigOfAnotherModel) {
  expect_failure({"bench", "--model", data_path("pipeline/vae/config.json")}, 1, {"config.json", "RAEDiT2DModel"});
  expect_failure({"bench", "--model", "missing.json"}, 1, {"missing.json"});
}

TEST_F(BenchTest, PeersTakeTurnsWithUs) {
  const Json result = parse_json(expect_success(compare(kPeer, {"--batch", "2", "--json"}), options_), "bench");
  const Json& comparison = result["comparison"];
  EXPECT_EQ(comparison["rounds"], 3);
  EXPECT_EQ(comparison["versions"], "torch 9");
  const Json& eager = comparison["peers"][0];
  EXPECT_EQ(eager["name"], "eager");
  EXPECT_EQ(eager["milliseconds"], 2000);
  EXPECT_EQ(eager["amx"], true);
  EXPECT_NEAR(eager["ratio"].get<double>(), 2000 / result["milliseconds"].get<double>(), 1e-6);
  EXPECT_EQ(comparison["peers"][1], Json({{"name", "graph"}, {"absent", "not installed"}}));

  const std::string turn = Json{{"turn", "eager"}, {"warm", 1}, {"timed", 2}}.dump() + "\n";
  EXPECT_EQ(slurp(path("turns")), turn + turn + turn);
  EXPECT_EQ(slurp(path("ended")), "done\n") << "the peer sees the end of its input";
  const Json job = parse_json(slurp(path("job.json")), "job");
  EXPECT_EQ(job["part"], "transformer");
  EXPECT_EQ(job["dtype"], "float32");
  EXPECT_EQ(job["batch"], 2);
  EXPECT_EQ(job["threads"], 1);
  EXPECT_EQ(job["cold_bytes"], 0);
  EXPECT_EQ(job["config"]["in_channels"], parse_json(slurp(config_), config_)["in_channels"]);
}

TEST_F(BenchTest, ComparisonAsText) {
  const std::string text = expect_success(compare(kPeer, {"--cold"}), options_);
  for (const char* part : {"3 rounds by turns", "2000.00", "AMX: matmul brg:amx", "absent", "not installed", "torch 9"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " not in " << text;
  EXPECT_NE(slurp(path("turns")).find(R"("warm":0)"), std::string::npos) << "nothing is warm then";
  EXPECT_GT(parse_json(slurp(path("job.json")), "job")["cold_bytes"].get<int64_t>(), 0);
}

TEST_F(BenchTest, ThePeerIsHeldToTheSameInstructions) {
  const std::string script =
      "read -r job\n"
      "echo \"{\\\"peers\\\":[{\\\"name\\\":\\\"x\\\",\\\"absent\\\":\\\"y\\\"}],"
      "\\\"isa\\\":\\\"$ATEN_CPU_CAPABILITY $ONEDNN_MAX_CPU_ISA\\\"}\"\n"
      "read -r end\n";
  const auto isa = [&](std::map<std::string, std::string> more) {
    RunOptions options = options_;
    options.environment.insert(more.begin(), more.end());
    return parse_json(expect_success(compare(script, {"--json"}), options), "bench")["comparison"]["isa"];
  };
  EXPECT_EQ(isa({{"RAEDIT_FORCE_ISA", "avx512"}}), "avx512 AVX512_CORE_BF16");
  EXPECT_EQ(isa({{"RAEDIT_FORCE_ISA", "avx2"}}), "avx2 AVX2");
  EXPECT_EQ(isa({{"RAEDIT_FORCE_ISA", "sse2"}}), "default SSE41");
  EXPECT_EQ(isa({{"RAEDIT_FORCE_ISA", "avx2"}, {"ATEN_CPU_CAPABILITY", "avx512"}}), "avx512 AVX2");
}

TEST_F(BenchTest, PeersThatFail) {
  expect_failure(compare("echo 'ImportError: no torch' >&2; exit 3"), 1,
                 {"peer.sh", "ended without an answer", "exit code 3", "ImportError: no torch"}, options_);
  expect_failure(compare("kill -9 $$"), 1, {"ended without an answer", "signal 9"}, options_);
  expect_failure(compare("echo hello"), 1, {"makes no sense", "hello"}, options_);
  expect_failure(compare("echo '{\"peers\":[]}'"), 1, {"makes no sense", "peers with names"}, options_);
  const std::string ready = "read -r job; echo '{\"peers\":[{\"name\":\"x\"}]}'; read -r turn; ";
  for (const char* answer : {"[1,2]", "{}", "{\"milliseconds\":[1]}", "{\"milliseconds\":[1,-1]}", "\xff"})
    expect_failure(compare(ready + "echo '" + answer + "'"), 1, {"makes no sense", "2 milliseconds above 0"}, options_);
  expect_failure(compare(ready + "exit 0"), 1, {"ended without an answer", "exit code 0"}, options_);
  expect_failure(compare("yes | tr -d '\\n'"), 1, {"the answer does not end"}, options_);
}

TEST_F(BenchTest, APeerThatHangsIsEnded) {
  const Result result =
      run(compare("echo $$ > id; trap '' TERM; while :; do sleep 0.05; done", {"--pytorch-seconds", "1"}), options_);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("no answer in time"), std::string::npos) << result.err;
  expect_ended("id");
}

TEST_F(BenchTest, AnInterruptEndsThePeer) {
  const Result result = run(compare("echo $$ > id; kill -INT $PPID; sleep 100 & wait"), options_);
  EXPECT_EQ(result.exit_code, 130) << result.err;
  EXPECT_EQ(result.err, "raedit: error: interrupted\n");
  expect_ended("id");
}

TEST_F(BenchTest, WhatIsMissingIsNamedBeforeAnythingIsLoaded) {
  const std::vector<std::string> start{"bench", "--model", "missing.json", "--compare-pytorch"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), start.begin(), start.end());
    return more;
  };
  expect_failure(with({"--pytorch-script", "nothing.py"}), 1, {"--pytorch-script", "nothing.py"});
  RunOptions named;
  named.environment = {{"RAEDIT_PYTORCH_SCRIPT", "none.py"}};
  expect_failure(with({}), 1, {"RAEDIT_PYTORCH_SCRIPT", "none.py"}, named);
  expect_failure(with({"--python", "/no/python"}), 1, {"--python", "/no/python"});
  expect_failure({"bench", "--python", "x"}, 2, {"--python", "--compare-pytorch"});
  expect_failure({"bench", "--compare-pytorch", "--device", "cuda"}, 2, {"--compare-pytorch is for the processor"});
}

}  // namespace
}  // namespace raedit::cli_test
