// What a run leaves for those who watch it: metrics.jsonl and TensorBoard's event files. Of the first rank only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "raedit/image.h"
#include "train/event_file.h"
#include "train/metrics_file.h"
#include "train/stage2_trainer.h"

namespace raedit::train {

class RunLog {
 public:
  // output_dir/metrics.jsonl and, with `events` (a folder), event files in it. A run that goes on behind `resume_step`
  // drops what is there of later steps.
  RunLog(const std::string& output_dir, const std::string& events, std::optional<int64_t> resume_step);

  void step(const StepReport& report);
  void skipped(int64_t step, const std::string& module, double loss);
  // Lines of later steps are dropped, those that led to it among them: `module` and `loss` say why.
  void restored(int64_t step, double lr_factor, const std::string& module, double loss);
  // The PNG files that validation wrote.
  void pictures(int64_t step, const std::string& folder, size_t count);

 private:
  const std::string output_dir_, events_folder_;
  std::optional<MetricsFile> metrics_;
  std::unique_ptr<EventFile> events_;
};

}  // namespace raedit::train
