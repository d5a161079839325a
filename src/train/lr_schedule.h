// Learning rates over the optimizer's steps: diffusers' schedules and upstream's. Each is a factor of the base rate.
// Source: diffusers optimization.py (get_scheduler); bytetriper/RAE utils/optim_utils.py (build_scheduler).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace raedit::train {

enum class LrScheduleType { constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial };

// diffusers' names. Throws Error(invalid_argument) naming the known ones.
LrScheduleType lr_schedule_from_name(std::string_view name);

struct LrSchedule {
  LrScheduleType type = LrScheduleType::cosine;
  double base_lr = 1e-4;
  int64_t num_warmup_steps = 500;  // the factor grows from 0, which it is at step 0, to 1
  int64_t num_training_steps = 0;  // where the decaying ones end
  double num_cycles = 1.0;         // cosine_with_restarts
  double power = 1.0;              // polynomial
  double lr_end = 1e-7;            // polynomial; below base_lr

  // Of optimizer step `step`, from 0 on. Throws Error(invalid_argument) for a polynomial that would rise.
  double lr(int64_t step) const;
};

// "1:10,0.1:20,0.01": factor 1 for the first 10 steps, 0.1 up to step 20, 0.01 from there on.
struct PiecewiseConstantLr {
  double base_lr = 1e-4;
  std::vector<std::pair<int64_t, double>> until;  // (first step that it no longer holds for, factor), ascending
  double last = 1.0;

  // Throws Error(invalid_argument) for rules that are not that.
  static PiecewiseConstantLr parse(const std::string& rules, double base_lr);
  double lr(int64_t step) const;
};

// Upstream's: constant (or, from_zero, growing) for warmup_steps, then down to final_lr at decay_end_steps, and flat.
struct UpstreamLr {
  enum class Shape { linear, cosine };
  Shape shape = Shape::linear;
  double base_lr = 2e-4, final_lr = 2e-4;
  int64_t warmup_steps = 0, decay_end_steps = 0;
  bool warmup_from_zero = false;

  double lr(int64_t step) const;
};

}  // namespace raedit::train
