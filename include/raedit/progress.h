// Progress of a long call, and a way to stop it. Both belong to a Context, never to the process.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace raedit {

struct Progress {
  enum class Phase { sample, decode };
  Phase phase = Phase::sample;
  int64_t step = 0;    // finished steps of this phase
  int64_t total = 0;   // steps of this phase
  double seconds = 0;  // since the phase began
};

// Called on the thread that runs the request, with no lock held.
using ProgressCallback = std::function<void(const Progress&)>;

// Copies share one flag. Polled at every sampling step; the call that sees it throws Error(cancelled).
class CancelToken {
 public:
  CancelToken() : flag_(std::make_shared<std::atomic<bool>>(false)) {}
  void cancel() const { flag_->store(true, std::memory_order_relaxed); }
  bool cancelled() const { return flag_->load(std::memory_order_relaxed); }

 private:
  std::shared_ptr<std::atomic<bool>> flag_;
};

}  // namespace raedit
