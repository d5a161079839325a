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
  // Begins a run of `total` steps, or bytes (0: nobody knows); the clock and the ETA start here.
  enum class Unit { steps, bytes };
  void begin(std::string name, int64_t total, Unit unit = Unit::steps);
  void step(int64_t done);
  // Takes the bar off the terminal.
  void clear();

 private:
  void draw(int64_t done);
  void print_tenth(int64_t done);

  Style style_;
  std::string name_;
  int64_t total_ = 0;
  Unit unit_ = Unit::steps;
  int64_t last_tenth_ = 0;
  double last_drawn_ = 0;
  bool drawn_ = false;
  Stopwatch watch_;
};

// Columns of the terminal that stderr is: what it says, else COLUMNS, else 80.
int terminal_width();

// What there is to say of `done` steps out of `total`.
struct BarState {
  std::string name;
  int64_t done = 0, total = 0;
  ProgressBar::Unit unit = ProgressBar::Unit::steps;
  double seconds = 0;
};

// "sample [=====>     ] 23/50  4.1 s, 4.9 s left", or "write [==>   ] 1.20 GiB/3.12 GiB  0.84 GB/s, 2.4 s left"; no
// wider than `width` characters.
std::string bar_line(const BarState& state, int width);

}  // namespace raedit::cli
