// The options with what the environment adds to them, and the one place that asks the caller whether to go on.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "raedit/hub.h"

namespace raedit::hub {

struct Settings {
  std::string cache_dir;
  std::string endpoint;  // without a slash at the end
  std::string token;     // empty: none
  std::string ca_bundle;
  bool offline = false;
  int retries = 4;
  double first_pause_seconds = 1.0;
  long stall_seconds = 30;  // a transfer with nothing arriving for so long is given up
};

// Throws Error(invalid_argument) for values that cannot be meant.
Settings settings_from(const HubOptions& options);

// Tells the caller how far it is, a few times a second however often it is asked to, and throws Error(cancelled) when
// the answer is no.
class ProgressMeter {
 public:
  explicit ProgressMeter(std::function<bool(const HubProgress&)> callback) : callback_(std::move(callback)) {}

  void begin(std::string file, uint64_t done, uint64_t total);
  void advance(uint64_t done) { state_.done = done; }
  void end();
  // Call it often.
  void poll();
  void sleep(double seconds);

 private:
  void tell();

  std::function<bool(const HubProgress&)> callback_;
  HubProgress state_;
  std::chrono::steady_clock::time_point told_{};
};

}  // namespace raedit::hub
