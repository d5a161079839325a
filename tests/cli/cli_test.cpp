#include "cli_test.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "io/safetensors.h"

namespace raedit::cli_test {
namespace fs = std::filesystem;
namespace {

struct Pipe {
  int read_end = -1, write_end = -1;
};

Pipe make_pipe(bool terminal) {
  Pipe made;
  if (terminal) {
    winsize size = {};
    size.ws_col = 80;
    size.ws_row = 24;
    if (::openpty(&made.read_end, &made.write_end, nullptr, nullptr, &size) != 0) std::abort();
  } else {
    std::array<int, 2> ends{};
    if (::pipe(ends.data()) != 0) std::abort();
    made = {ends[0], ends[1]};
  }
  ::fcntl(made.read_end, F_SETFD, FD_CLOEXEC);
  return made;
}

[[noreturn]] void become_program(const std::string& folder, const std::vector<std::string>& arguments,
                                 const RunOptions& options, int out, int err) {
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  ::close(out);
  ::close(err);
  if (::chdir(folder.c_str()) != 0) ::_exit(126);
  ::unsetenv("RAEDIT_MODEL_PATH");
  ::setenv("TERM", "xterm", 1);
  for (const auto& [key, value] : options.environment) ::setenv(key.c_str(), value.c_str(), 1);
  if (options.file_size_limit >= 0) std::signal(SIGXFSZ, SIG_IGN);  // write() fails instead
  for (const auto& [resource, bytes] :
       {std::pair{RLIMIT_AS, options.address_space_limit}, {RLIMIT_FSIZE, options.file_size_limit}}) {
    const rlimit limit{static_cast<rlim_t>(bytes), static_cast<rlim_t>(bytes)};
    if (bytes >= 0) ::setrlimit(resource, &limit);
  }
  std::vector<char*> argv{const_cast<char*>("raedit")};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execv(RAEDIT_PROGRAM, argv.data());
  ::_exit(127);
}

// Reads both until they end; a terminal says EIO then.
void drain(int out, int err, pid_t child, const RunOptions& options, Result& run) {
  std::array<pollfd, 2> ends{{{out, POLLIN, 0}, {err, POLLIN, 0}}};
  std::array<char, 4096> buffer{};
  bool interrupted = options.interrupt_after_ms < 0;
  while (ends[0].fd >= 0 || ends[1].fd >= 0) {
    ::poll(ends.data(), ends.size(), -1);
    for (size_t i = 0; i < ends.size(); ++i) {
      if (ends[i].fd < 0 || ends[i].revents == 0) continue;
      const ssize_t got = ::read(ends[i].fd, buffer.data(), buffer.size());
      if (got <= 0)
        ends[i].fd = -1;
      else
        (i == 0 ? run.out : run.err).append(buffer.data(), static_cast<size_t>(got));
    }
    if (!interrupted && run.err.find('\n') != std::string::npos) {
      ::usleep(static_cast<useconds_t>(options.interrupt_after_ms) * 1000);
      ::kill(child, SIGINT);
      interrupted = true;
    }
  }
}

}  // namespace

CliTest::CliTest() {
  std::string pattern = ::testing::TempDir() + "raedit_cli_XXXXXX";
  folder_ = ::mkdtemp(pattern.data());
}

CliTest::~CliTest() {
  std::error_code error;
  fs::remove_all(folder_, error);
}

Result CliTest::run(const std::vector<std::string>& arguments, const RunOptions& options) const {
  const Pipe out = make_pipe(false), err = make_pipe(options.terminal);
  const pid_t child = ::fork();
  if (child == 0) become_program(folder_, arguments, options, out.write_end, err.write_end);
  ::close(out.write_end);
  ::close(err.write_end);
  Result run;
  drain(out.read_end, err.read_end, child, options, run);
  ::close(out.read_end);
  ::close(err.read_end);
  int status = 0;
  ::waitpid(child, &status, 0);
  run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return run;
}

void CliTest::expect_failure(const std::vector<std::string>& arguments, int exit_code,
                             const std::vector<std::string>& parts, const RunOptions& options) const {
  const auto before = snapshot();
  const Result result = run(arguments, options);
  EXPECT_EQ(result.exit_code, exit_code) << result.err;
  EXPECT_EQ(result.out, "");
  const size_t start = result.err.find("raedit: error: ");
  ASSERT_NE(start, std::string::npos) << result.err;
  const std::string message = result.err.substr(start);
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 1) << message;
  for (const std::string& part : parts)
    EXPECT_NE(message.find(part), std::string::npos) << part << " not in " << message;
  EXPECT_EQ(snapshot(), before) << "files were made or changed";
}

std::string CliTest::expect_success(const std::vector<std::string>& arguments, const RunOptions& options) const {
  const Result result = run(arguments, options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result.out;
}

std::map<std::string, std::string> CliTest::snapshot() const {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
    const std::string name = fs::relative(entry.path(), folder_).string();
    const bool plain = !entry.is_symlink() && entry.is_regular_file();
    const std::string content = plain ? slurp(entry.path().string()) : "";
    files[name] = plain ? std::to_string(content.size()) + " " + std::to_string(std::hash<std::string>()(content)) : "";
  }
  return files;
}

std::vector<std::string> CliTest::names(const std::string& folder) const {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(path(folder))) found.push_back(entry.path().filename().string());
  std::sort(found.begin(), found.end());
  return found;
}

std::string CliTest::tiny_model(const std::string& name) const {
  fs::create_directory(path(name));
  for (const char* part : {"transformer", "vae", "scheduler", "model_index.json"})
    fs::copy(data_path("pipeline/") + part, path(name) + "/" + part, fs::copy_options::recursive);
  return path(name);
}

std::string data_path(const std::string& name) {
  return std::string(RAEDIT_TEST_DATA) + "/" + name;
}

std::string source_path(const std::string& name) {
  return std::string(RAEDIT_SOURCE_DIR) + "/" + name;
}

std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void spit(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

Tensor read_tensor(const std::string& file, const std::string& name) {
  return SafetensorsFile::open(file).tensor(name);
}

void change_tensor(const std::string& file, const std::string& name, const Tensor& tensor) {
  NamedTensors tensors;
  const SafetensorsFile before = SafetensorsFile::open(file);
  for (const std::string& other : before.names())
    if (other != name) tensors.emplace_back(other, before.tensor(other).clone());
  if (tensor.defined()) tensors.emplace_back(name, tensor);
  write_safetensors(file, tensors, before.metadata());
}

void change_key(const std::string& file, const std::string& key, const Json& value) {
  Json json = parse_json(slurp(file), file);
  json[key] = value;
  spit(file, json.dump(2));
}

std::string raw_safetensors(const std::string& header, size_t data_bytes) {
  std::string bytes(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + std::string(data_bytes, '\x5a');
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  const Tensor x = a.contiguous(), y = b.contiguous();
  return x.dtype() == y.dtype() && x.shape() == y.shape() && std::memcmp(x.raw(), y.raw(), x.nbytes()) == 0;
}

double max_difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape().str(), b.shape().str());
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double most = 0;
  for (size_t i = 0; i < x.size() && i < y.size(); ++i) most = std::max(most, std::abs(x[i] - y[i]));
  return most;
}

}  // namespace raedit::cli_test
