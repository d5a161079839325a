#include "child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>

#include "core/check.h"
#include "measure.h"

extern char** environ;

namespace raedit::cli {
namespace {

constexpr size_t kLongestLine = size_t{1} << 20;

void check_system(bool good, const char* what) {
  RAEDIT_CHECK(good, {.code = ErrorCode::io, .what = what, .found = std::strerror(errno)});
}

std::vector<std::string> environment_with(const std::map<std::string, std::string>& more) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (!more.contains(text.substr(0, text.find('=')))) all.push_back(text);
  }
  for (const auto& [key, value] : more) all.push_back(fmt::format("{}={}", key, value));
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

// Not fork: this process may be large, and has threads.
int spawn(pid_t& id, const std::vector<std::string>& command, const std::map<std::string, std::string>& environment,
          int in_and_out, int errors) {
  std::vector<std::string> arguments = command, variables = environment_with(environment);
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_adddup2(&files, in_and_out, STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&files, in_and_out, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&files, errors, STDERR_FILENO);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  ::posix_spawnattr_setpgroup(&attributes, 0);
  const int failure = ::posix_spawnp(&id, arguments[0].c_str(), &files, &attributes, pointers(arguments).data(),
                                     pointers(variables).data());
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&files);
  return failure;
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& command,
                           const std::map<std::string, std::string>& environment, const std::string& option)
    : name_(std::filesystem::path(command.back()).filename().string()) {
  std::array<int, 2> ends{};
  check_system(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0, "cannot make a pipe");
  socket_ = ends[0];
  errors_ = ::memfd_create("stderr", MFD_CLOEXEC);
  const int failure = errors_ < 0 ? errno : spawn(id_, command, environment, ends[1], errors_);
  ::close(ends[1]);
  if (failure == 0) return;
  ::close(socket_);
  if (errors_ >= 0) ::close(errors_);
  raise({.code = ErrorCode::not_found,
         .what = "cannot start",
         .where = option,
         .found = fmt::format("{}: {}", command[0], std::strerror(failure))});
}

ChildProcess::~ChildProcess() {
  ::shutdown(socket_, SHUT_WR);
  if (!wait_for_end(1000)) {
    ::kill(-id_, SIGTERM);
    if (!wait_for_end(2000)) {
      ::kill(-id_, SIGKILL);
      wait_for_end(-1);
    }
  }
  ::close(socket_);
  ::close(errors_);
}

bool ChildProcess::wait_for_end(int milliseconds) {
  const Stopwatch watch;
  while (!ended_) {
    const pid_t got = ::waitpid(id_, &status_, milliseconds < 0 ? 0 : WNOHANG);
    if (got == id_ || (got < 0 && errno != EINTR)) ended_ = true;
    if (ended_ || (milliseconds >= 0 && watch.seconds() * 1e3 > milliseconds)) break;
    if (got == 0) ::usleep(5000);
  }
  return ended_;
}

void ChildProcess::write_line(std::string line) const {
  line += '\n';
  for (size_t at = 0; at < line.size();) {
    const ssize_t sent = ::send(socket_, line.data() + at, line.size() - at, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return;
    at += static_cast<size_t>(sent);
  }
}

std::string ChildProcess::read_line(double seconds, const Interrupt& interrupt) {
  const Stopwatch watch;
  while (true) {
    if (const size_t end = read_.find('\n'); end != std::string::npos) {
      const std::string line = read_.substr(0, end);
      read_.erase(0, end + 1);
      return line;
    }
    interrupt.throw_if_cancelled();
    const double left = seconds - watch.seconds();
    RAEDIT_CHECK(left > 0, {.code = ErrorCode::io,
                            .what = "no answer in time",
                            .where = name_,
                            .found = fmt::format("nothing for {}", human_seconds(seconds)),
                            .hint = last_words()});
    pollfd ready{socket_, POLLIN, 0};
    if (::poll(&ready, 1, static_cast<int>(std::min(left * 1e3 + 1, 100.0))) <= 0) continue;
    std::array<char, 4096> buffer{};
    const ssize_t got = ::read(socket_, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) raise_ended();
    read_.append(buffer.data(), static_cast<size_t>(got));
    RAEDIT_CHECK(read_.size() < kLongestLine,
                 {.code = ErrorCode::format, .what = "the answer does not end", .where = name_});
  }
}

void ChildProcess::raise_ended() {
  std::string how = "its output was closed";
  if (wait_for_end(500))
    how = WIFSIGNALED(status_) ? fmt::format("signal {}", WTERMSIG(status_))
                               : fmt::format("exit code {}", WEXITSTATUS(status_));
  raise({.code = ErrorCode::io, .what = "ended without an answer", .where = name_, .found = how, .hint = last_words()});
}

std::string ChildProcess::last_words() const {
  constexpr off_t kMost = 4096;
  struct stat info = {};
  ::fstat(errors_, &info);  // not lseek: the position is the child's
  const off_t start = std::max<off_t>(0, info.st_size - kMost);
  std::string text(static_cast<size_t>(info.st_size - start), '\0');
  const ssize_t got = ::pread(errors_, text.data(), text.size(), start);
  text.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
  text.erase(text.find_last_not_of(" \n\r\t") + 1);
  const size_t line = text.find_last_of('\n');
  if (line != std::string::npos) text.erase(0, line + 1);
  return text.empty() ? "" : "it said: " + text.substr(0, 400);
}

}  // namespace raedit::cli
