#include "progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "print_stderr.h"

namespace raedit::cli {
namespace {

constexpr double kRedrawSeconds = 0.05;

int terminal_width() {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* columns = std::getenv("COLUMNS");
  const int width = columns == nullptr ? 0 : std::atoi(columns);
  return width > 0 ? width : 80;
}

}  // namespace

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

void ProgressBar::begin(std::string name, int64_t total) {
  name_ = std::move(name);
  total_ = total;
  last_tenth_ = 0;
  last_drawn_ = 0;
  watch_ = Stopwatch();
  if (style_ == Style::bar) draw(0);
}

void ProgressBar::step(int64_t done) {
  if (style_ == Style::bar && (done >= total_ || watch_.seconds() - last_drawn_ >= kRedrawSeconds)) draw(done);
  if (style_ != Style::lines || total_ < 1) return;
  const int64_t tenth = done * 10 / total_;
  if (tenth <= last_tenth_) return;
  last_tenth_ = tenth;
  const double seconds = watch_.seconds();
  const double left = seconds / static_cast<double>(done) * static_cast<double>(total_ - done);
  print_stderr(fmt::format("{} {}/{}  {}{}\n", name_, done, total_, human_seconds(seconds),
                           done < total_ ? ", " + human_seconds(left) + " left" : ""));
}

void ProgressBar::clear() {
  if (drawn_) print_stderr("\r\033[K");
  drawn_ = false;
}

void ProgressBar::draw(int64_t done) {
  last_drawn_ = watch_.seconds();
  // One column stays free: some terminals wrap as soon as the last is written.
  print_stderr(fmt::format("\r{}\033[K", bar_line(name_, done, total_, last_drawn_, terminal_width() - 1)));
  std::fflush(stderr);
  drawn_ = true;
}

std::string bar_line(const std::string& name, int64_t done, int64_t total, double seconds, int width) {
  const double share = total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 1.0;
  std::string right = fmt::format(" {}/{}  {}", done, total, human_seconds(seconds));
  if (done > 0 && done < total) right += fmt::format(", {} left", human_seconds(seconds * (1 - share) / share));
  const int cells = std::min(40, width - static_cast<int>(name.size() + right.size()) - 3);
  if (cells < 5) return (name + right).substr(0, static_cast<size_t>(std::max(width, 0)));
  const int full = static_cast<int>(share * cells);
  std::string bar(static_cast<size_t>(full), '=');
  if (full < cells) bar += '>';
  bar.resize(static_cast<size_t>(cells), ' ');
  return name + " [" + bar + "]" + right;
}

}  // namespace raedit::cli
