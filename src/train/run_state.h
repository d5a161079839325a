// Where a run stands, beside the model itself, and what it has seen since it last told.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "core/json.h"
#include "train/stage2_step.h"

namespace raedit::train {

// What trainer_state.json keeps.
struct RunState {
  uint64_t seed = 0;
  int64_t position = 0;  // in the stream of samples; steps that were skipped or taken back have used theirs up, too
  double lr_factor = 1;  // below 1 after a restore
  int64_t bad_steps = 0, restores = 0;

  Json json() const {
    return {{"seed", seed},
            {"position", position},
            {"lr_factor", lr_factor},
            {"bad_steps", bad_steps},
            {"restores", restores}};
  }
  static RunState read(const Json& json, const std::string& where) {
    JsonReader reader(json, where);
    RunState state;
    const Json* seed = reader.raw("seed");
    if (seed == nullptr || !seed->is_number_unsigned()) reader.fail("seed", "a whole number");
    state.seed = seed->get<uint64_t>();
    state.position = reader.int64("position");
    state.lr_factor = reader.number("lr_factor");
    state.bad_steps = reader.int64("bad_steps");
    state.restores = reader.int64("restores");
    if (state.position < 0) reader.fail("position", "0 or more");
    return state;
  }
};

// Means over the steps since the last report; time that is not theirs is taken out.
struct Meter {
  using Clock = std::chrono::steady_clock;

  double loss = 0, grad_norm = 0;
  int64_t steps = 0;
  Clock::time_point since = Clock::now();

  double seconds() const { return std::chrono::duration<double>(Clock::now() - since).count(); }
  void leave_out(Clock::time_point begin) { since += Clock::now() - begin; }
  void add(const Stage2StepResult& result) {
    loss += result.loss;
    grad_norm += result.grad_norm;
    ++steps;
  }
};

}  // namespace raedit::train
