#include "train/lr_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/check.h"
#include "core/named_value.h"
#include "core/text.h"

namespace raedit::train {
namespace {

constexpr std::pair<std::string_view, LrScheduleType> kNames[] = {
    {"constant", LrScheduleType::constant},
    {"constant_with_warmup", LrScheduleType::constant_with_warmup},
    {"linear", LrScheduleType::linear},
    {"cosine", LrScheduleType::cosine},
    {"cosine_with_restarts", LrScheduleType::cosine_with_restarts},
    {"polynomial", LrScheduleType::polynomial},
};

template <class T>
T parse_number(std::string_view text, const std::string& rules) {
  const std::optional<T> value = number_of<T>(text);
  RAEDIT_CHECK(value && *value >= T{}, {.code = ErrorCode::invalid_argument,
                                        .what = "rules of a piecewise constant learning rate are wrong",
                                        .found = rules,
                                        .expected = "FACTOR:STEP,...,FACTOR such as 1:10,0.1:20,0.01"});
  return *value;
}

}  // namespace

LrScheduleType lr_schedule_from_name(std::string_view name) {
  return named_value(name, kNames, "unknown learning-rate schedule");
}

double LrSchedule::lr(int64_t step) const {
  const auto warmup = static_cast<double>(num_warmup_steps), total = static_cast<double>(num_training_steps);
  const auto at = static_cast<double>(step);
  if (type == LrScheduleType::constant) return base_lr;
  if (step < num_warmup_steps) return base_lr * at / std::max(1.0, warmup);
  const double progress = (at - warmup) / std::max(1.0, total - warmup);
  switch (type) {
    case LrScheduleType::linear: return base_lr * std::max(0.0, (total - at) / std::max(1.0, total - warmup));
    case LrScheduleType::cosine: return base_lr * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
    case LrScheduleType::cosine_with_restarts:
      if (progress >= 1.0) return 0.0;
      return base_lr * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * std::fmod(num_cycles * progress, 1.0))));
    case LrScheduleType::polynomial:
      RAEDIT_CHECK(lr_end < base_lr, {.code = ErrorCode::invalid_argument,
                                      .what = "lr_end must be below the learning rate",
                                      .found = fmt::format("{} and {}", lr_end, base_lr)});
      if (step > num_training_steps) return lr_end;
      return (base_lr - lr_end) * std::pow(1.0 - (at - warmup) / (total - warmup), power) + lr_end;
    default: return base_lr;
  }
}

PiecewiseConstantLr PiecewiseConstantLr::parse(const std::string& rules, double base_lr) {
  PiecewiseConstantLr schedule;
  schedule.base_lr = base_lr;
  std::string_view rest = rules;
  for (size_t comma; (comma = rest.find(',')) != rest.npos; rest.remove_prefix(comma + 1)) {
    const std::string_view rule = rest.substr(0, comma);
    const size_t colon = std::min(rule.find(':'), rule.size());
    const auto factor = parse_number<double>(rule.substr(0, colon), rules);
    const auto step = parse_number<int64_t>(rule.substr(std::min(colon + 1, rule.size())), rules);
    RAEDIT_CHECK(schedule.until.empty() || step > schedule.until.back().first,
                 {.code = ErrorCode::invalid_argument,
                  .what = "the steps of a piecewise constant learning rate must grow",
                  .found = rules});
    schedule.until.emplace_back(step, factor);
  }
  schedule.last = parse_number<double>(rest, rules);
  return schedule;
}

double PiecewiseConstantLr::lr(int64_t step) const {
  for (const auto& [end, factor] : until)
    if (step < end) return base_lr * factor;
  return base_lr * last;
}

double UpstreamLr::lr(int64_t step) const {
  const int64_t end = std::max(decay_end_steps, warmup_steps);
  if (step < warmup_steps)
    return warmup_from_zero ? base_lr * static_cast<double>(step + 1) / static_cast<double>(warmup_steps) : base_lr;
  if (step >= end) return final_lr;
  const double progress =
      static_cast<double>(step - warmup_steps) / static_cast<double>(std::max<int64_t>(end - warmup_steps, 1));
  const double remaining =
      shape == Shape::linear ? 1.0 - progress : 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  return final_lr + (base_lr - final_lr) * remaining;
}

}  // namespace raedit::train
