#include "train_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "measure.h"
#include "print_stderr.h"

namespace raedit::cli {
namespace {

constexpr int kMostCells = 40, kFewestCells = 5;

std::string left(const train::StepReport& r) {
  return r.step < r.max_train_steps ? human_seconds(r.seconds_left) + " left" : "done";
}

std::string bad(const train::StepReport& r, const char* space) {
  return r.bad_steps == 0 ? "" : fmt::format("{}{} bad step{}", space, r.bad_steps, r.bad_steps == 1 ? "" : "s");
}

}  // namespace

void TrainProgress::note(const std::string& line) {
  clear();
  phase_bar_.say(line);
}

void TrainProgress::phase(const std::string& name, int64_t done, int64_t total) {
  if (done == 0) {
    clear();
    phase_bar_.begin(name, total);
  } else {
    phase_bar_.step(done);
  }
  if (done >= total) phase_bar_.clear();
}

void TrainProgress::step(const train::StepReport& report) {
  if (style_ == ProgressBar::Style::none) return;
  phase_bar_.clear();
  if (style_ == ProgressBar::Style::lines) return print_stderr(step_line(report) + "\n");
  // One column stays free: some terminals wrap as soon as the last is written.
  print_stderr("\r" + step_bar(report, terminal_width() - 1) + "\033[K");
  drawn_ = true;
}

// What the last report said stays on the screen.
void TrainProgress::clear() {
  phase_bar_.clear();
  if (drawn_) print_stderr("\n");
  drawn_ = false;
}

std::string step_line(const train::StepReport& r) {
  return fmt::format("step {}/{}  epoch {:.2f}  loss {:.4f}  lr {:.2e}  grad {:.3f}  {:.1f} img/s  {}{}", r.step,
                     r.max_train_steps, r.epoch, r.loss, r.lr, r.grad_norm, r.images_per_second, left(r), bad(r, "  "));
}

std::string step_bar(const train::StepReport& r, int width) {
  const std::string right =
      fmt::format("{}/{} loss {:.4f} lr {:.1e} grad {:.2f} {:.4g} img/s {}{}", r.step, r.max_train_steps, r.loss, r.lr,
                  r.grad_norm, r.images_per_second, left(r), bad(r, " "));
  const int cells = std::min(kMostCells, width - static_cast<int>(right.size()) - 3);
  if (cells < kFewestCells) return right.substr(0, static_cast<size_t>(std::max(width, 0)));
  const double share = r.max_train_steps > 0 ? static_cast<double>(r.step) / static_cast<double>(r.max_train_steps) : 1;
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * cells);
  std::string bar(static_cast<size_t>(full), '=');
  if (full < cells) bar += '>';
  bar.resize(static_cast<size_t>(cells), ' ');
  return "[" + bar + "] " + right;
}

}  // namespace raedit::cli
