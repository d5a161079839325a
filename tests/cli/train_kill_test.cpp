// A run that is killed at any moment, twenty times: the last whole checkpoint is never lost, every run goes on from it,
// and what comes out in the end has the bits of a run that was left alone.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <random>

#include "io/hash.h"
#include "io/safetensors.h"
#include "train_cli.h"

namespace raedit::cli_test {
namespace {

namespace fs = std::filesystem;

class TrainKilled : public CliTest {
 protected:
  TrainKilled() { make_pictures(path("pictures"), 3, 5); }

  Words words(const std::string& output_dir, int64_t steps) const {
    return small_training(path("pictures")) + Words{"--random-flip", "--quiet", "--resume", "latest"} +
           Words{"--train-batch-size", "2", "--gradient-accumulation-steps", "2"} +
           Words{"--lr-scheduler", "constant", "--ema-decay", "0.99", "--mixed-precision", "bf16"} +
           Words{"--cache-latents", path("latents"), "--output-dir", path(output_dir)} +
           Words{"--checkpointing-steps", "3", "--checkpoints-total-limit", "2"} +
           Words{"--max-train-steps", std::to_string(steps)};
  }

  // Starts the program, and ends it without a warning after so many milliseconds. Whether it was still running.
  bool killed_after(const Words& arguments, int milliseconds) const {
    const pid_t child = ::fork();
    if (child == 0) {
      const int null = ::open("/dev/null", O_RDWR);
      for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null, fd);
      std::vector<char*> argv{const_cast<char*>("raedit")};
      for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
      argv.push_back(nullptr);
      ::execv(RAEDIT_PROGRAM, argv.data());
      ::_exit(127);
    }
    ::usleep(static_cast<useconds_t>(milliseconds) * 1000);
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status);
  }

  // Of the last checkpoint that is there by its name; -1 where there is none. It must open.
  int64_t last_step() const {
    int64_t last = -1;
    std::error_code error;
    for (fs::directory_iterator it(path("killed"), error), end; !error && it != end; it.increment(error)) {
      const std::string name = it->path().filename().string();
      if (!name.starts_with("checkpoint-") || name.find('.') != name.npos) continue;
      last = std::max<int64_t>(last, std::stoll(name.substr(11)));
      const Json state = parse_json(slurp(it->path() / "trainer_state.json"), name);
      EXPECT_EQ(state["step"], std::stoll(name.substr(11)));
      for (const char* part : {"transformer", "ema"})
        EXPECT_GT(SafetensorsSet::open(it->path() / part).names().size(), 10u) << name;
      EXPECT_GT(SafetensorsFile::open(it->path() / "optimizer.safetensors").names().size(), 20u) << name;
    }
    return last;
  }
};

TEST_F(TrainKilled, TwentyTimesLosesNothing) {
  std::random_device entropy;
  const uint32_t seed = entropy();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  int64_t last = -1, progress = 0;
  for (int kill = 0; kill < 20; ++kill) {
    ASSERT_TRUE(killed_after(words("killed", 1'000'000), 40 + static_cast<int>(random() % 400))) << "kill " << kill;
    const int64_t now = last_step();
    ASSERT_GE(now, last) << "kill " << kill;
    progress += now > last ? 1 : 0;
    last = now;
  }
  EXPECT_GE(progress, 5) << "kills that came behind a new checkpoint; the last is " << last;

  const int64_t steps = std::max<int64_t>(last, 0) + 4;
  expect_success(words("killed", steps));
  expect_success(words("alone", steps));
  for (const char* file : {"transformer/diffusion_pytorch_model.safetensors", "transformer/config.json"})
    EXPECT_EQ(sha256_of_file(path("killed/") + file), sha256_of_file(path("alone/") + file)) << file;
  for (const std::string& name : names("killed")) EXPECT_EQ(name.find(".partial-"), name.npos) << name;
}

}  // namespace
}  // namespace raedit::cli_test
