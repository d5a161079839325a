#include "core/threads.h"

#include <fmt/format.h>

#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "core/check.h"

namespace raedit {
namespace {

// Threads that wait until the object goes.
class Waiting {
 public:
  explicit Waiting(int count, int wanted) {
    try {
      for (int i = 0; i < count; ++i)
        threads_.emplace_back([this] {
          std::unique_lock lock(mutex_);
          go_.wait(lock, [this] { return gone_; });
        });
    } catch (const std::system_error& error) {
      const size_t started = threads_.size() + 1;
      end();
      raise_no_threads("threads to compute with", started, wanted, error.what());
    }
  }
  ~Waiting() { end(); }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  void end() {
    {
      const std::lock_guard lock(mutex_);
      gone_ = true;
    }
    go_.notify_all();
    for (std::jthread& thread : threads_) thread.join();
    threads_.clear();
  }

  std::mutex mutex_;
  std::condition_variable go_;
  bool gone_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace

void raise_no_threads(const char* what, size_t started, int wanted, const char* reason) {
  raise({.code = ErrorCode::out_of_memory,
         .what = fmt::format("{} cannot be started: {}", what, reason),
         .found = fmt::format("{} of {}", started, wanted),
         .hint = "ask for fewer, or raise the limits of this process (ulimit -u, ulimit -v)"});
}

void require_threads(int count) {
  static std::mutex mutex;
  static int tried = 1;
  const std::lock_guard lock(mutex);
  if (count <= tried) return;
  const Waiting team(count - 1, count);
  tried = count;
}

void on_threads(int count, const std::function<void(int)>& work) {
  std::vector<std::jthread> team;
  try {
    for (int t = 0; t < count; ++t) team.emplace_back(work, t);
  } catch (const std::system_error& error) {
    raise_no_threads("threads", team.size(), count, error.what());
  }
}

}  // namespace raedit
