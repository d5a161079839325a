// Seconds and bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace raedit::cli {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

// The largest resident set of this process so far.
uint64_t peak_memory_bytes();

// "0.42 s", "4.1 s", "2:05", "1:02:05"
std::string human_seconds(double seconds);

}  // namespace raedit::cli
