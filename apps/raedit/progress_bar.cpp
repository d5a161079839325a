#include "progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "core/text.h"
#include "print_stderr.h"

namespace raedit::cli {
namespace {

constexpr double kRedrawSeconds = 0.05;
constexpr double kLineSeconds = 2;  // between lines on bytes: a small file deserves none

double share_of(const BarState& s) {
  return s.total > 0 ? std::clamp(static_cast<double>(s.done) / static_cast<double>(s.total), 0.0, 1.0) : 1.0;
}

// " 23/50  4.1 s, 4.9 s left"
std::string description(const BarState& s) {
  const double share = share_of(s);
  std::string text = fmt::format(" {}/{}  {}", s.done, s.total, human_seconds(s.seconds));
  if (s.unit == ProgressBar::Unit::bytes) {
    text = fmt::format(" {}", human_bytes(static_cast<uint64_t>(s.done)));
    if (s.total > 0) text += fmt::format("/{}", human_bytes(static_cast<uint64_t>(s.total)));
    if (s.seconds > 0) text += fmt::format("  {:.2f} GB/s", static_cast<double>(s.done) * 1e-9 / s.seconds);
  }
  if (s.done > 0 && s.done < s.total) text += fmt::format(", {} left", human_seconds(s.seconds * (1 - share) / share));
  return text;
}

}  // namespace

int terminal_width() {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* columns = std::getenv("COLUMNS");
  const int width = columns == nullptr ? 0 : std::atoi(columns);
  return width > 0 ? width : 80;
}

ProgressBar::Style ProgressBar::style_of_stderr(bool quiet) {
  if (quiet) return Style::none;
  const char* terminal = std::getenv("TERM");
  const bool dumb = terminal != nullptr && std::string_view(terminal) == "dumb";
  return isatty(STDERR_FILENO) != 0 && !dumb ? Style::bar : Style::lines;
}

void ProgressBar::say(const std::string& line) {
  if (style_ == Style::none) return;
  clear();
  print_stderr(line + "\n");
}

void ProgressBar::begin(std::string name, int64_t total, Unit unit) {
  name_ = std::move(name);
  total_ = total;
  unit_ = unit;
  last_tenth_ = 0;
  last_drawn_ = 0;
  watch_ = Stopwatch();
  if (style_ == Style::bar) draw(0);
}

void ProgressBar::step(int64_t done) {
  if (style_ == Style::bar && (done >= total_ || watch_.seconds() - last_drawn_ >= kRedrawSeconds)) draw(done);
  if (style_ == Style::lines && total_ > 0) print_tenth(done);
}

void ProgressBar::print_tenth(int64_t done) {
  const int64_t tenth = done * 10 / total_;
  const double seconds = watch_.seconds();
  if (tenth <= last_tenth_ || (unit_ == Unit::bytes && seconds - last_drawn_ < kLineSeconds)) return;
  last_tenth_ = tenth;
  last_drawn_ = seconds;
  print_stderr(name_ + description({name_, done, total_, unit_, seconds}) + "\n");
}

void ProgressBar::clear() {
  if (drawn_) print_stderr("\r\033[K");
  drawn_ = false;
}

void ProgressBar::draw(int64_t done) {
  last_drawn_ = watch_.seconds();
  // One column stays free: some terminals wrap as soon as the last is written.
  print_stderr(fmt::format("\r{}\033[K", bar_line({name_, done, total_, unit_, last_drawn_}, terminal_width() - 1)));
  std::fflush(stderr);
  drawn_ = true;
}

std::string bar_line(const BarState& state, int width) {
  const std::string right = description(state);
  const int cells = std::min(40, width - static_cast<int>(state.name.size() + right.size()) - 3);
  const bool endless = state.total < 1 && state.unit == ProgressBar::Unit::bytes;
  if (cells < 5 || endless) return (state.name + right).substr(0, static_cast<size_t>(std::max(width, 0)));
  const int full = static_cast<int>(share_of(state) * cells);
  std::string bar(static_cast<size_t>(full), '=');
  if (full < cells) bar += '>';
  bar.resize(static_cast<size_t>(cells), ' ');
  return state.name + " [" + bar + "]" + right;
}

}  // namespace raedit::cli
