// What a person sees of a training run on stderr: on a terminal one redrawn line, elsewhere a line at each report.
#pragma once

#include <string>

#include "progress_bar.h"
#include "train/stage2_trainer.h"

namespace raedit::cli {

class TrainProgress : public train::TrainObserver {
 public:
  explicit TrainProgress(ProgressBar::Style style) : style_(style), phase_bar_(style) {}
  ~TrainProgress() override { clear(); }
  TrainProgress(const TrainProgress&) = delete;
  TrainProgress& operator=(const TrainProgress&) = delete;

  void note(const std::string& line) override;
  void phase(const std::string& name, int64_t done, int64_t total) override;
  void step(const train::StepReport& report) override;
  void clear();

 private:
  ProgressBar::Style style_;
  ProgressBar phase_bar_;
  bool drawn_ = false;
};

// "step 120/5000  epoch 1.20  loss 0.8123  lr 1.00e-04  grad 0.520  113.2 img/s  2:05 left"
std::string step_line(const train::StepReport& report);
// "[==>     ] 120/5000 loss 0.8123 lr 1.0e-04 grad 0.52 113 img/s 2:05 left", no wider than `width` characters.
std::string step_bar(const train::StepReport& report, int width);

}  // namespace raedit::cli
