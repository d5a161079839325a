#include "core/threads.h"

#include <fmt/format.h>

#include <latch>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "core/check.h"

namespace raedit {

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
  std::latch go(1);
  std::vector<std::jthread> team;
  struct Release {
    std::latch& go;
    ~Release() { go.count_down(); }
  } const release{go};  // goes before the team, which is joined
  try {
    while (team.size() + 1 < static_cast<size_t>(count)) team.emplace_back([&go] { go.wait(); });
  } catch (const std::system_error& error) {
    raise_no_threads("threads to compute with", team.size() + 1, count, error.what());
  }
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
