// Progress on stderr: one redrawn line on a terminal, a few plain lines in a file or pipe, or nothing.
#pragma once

#include <cstdint>
#include <string>

#include "measure.h"

namespace raedit::cli {

class ProgressBar {
 public:
  enum class Style { bar, lines, none };
  // What suits stderr.
  static Style style_of_stderr(bool quiet);

  explicit ProgressBar(Style style) : style_(style) {}
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // A line that stays.
  void say(const std::string& line);
  // Begins a run of `total` steps; the clock and the ETA start here.
  void begin(std::string name, int64_t total);
  void step(int64_t done);
  // Takes the bar off the terminal.
  void clear();

 private:
  void draw(int64_t done);

  Style style_;
  std::string name_;
  int64_t total_ = 0;
  int64_t last_tenth_ = 0;
  double last_drawn_ = 0;
  bool drawn_ = false;
  Stopwatch watch_;
};

// "sample [=====>     ] 23/50  4.1 s, 4.9 s left", no wider than `width` characters.
std::string bar_line(const std::string& name, int64_t done, int64_t total, double seconds, int width);

}  // namespace raedit::cli
