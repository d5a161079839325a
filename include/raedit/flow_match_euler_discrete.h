// FlowMatchEulerDiscreteScheduler: Euler steps along the straight path from noise (sigma 1) to data (sigma 0).
// Source: diffusers schedulers/scheduling_flow_match_euler_discrete.py; upstream_sigmas: bytetriper/RAE
// stage2/transport/transport.py. Names, defaults and number formats are diffusers'.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "raedit/context.h"
#include "raedit/export.h"
#include "raedit/generator.h"
#include "raedit/tensor.h"

namespace raedit {

// How dynamic shifting bends the schedule: e^mu / (e^mu + (1/t - 1)) or mu / (mu + (1/t - 1)).
enum class TimeShiftType { exponential, linear };

struct FlowMatchEulerDiscreteSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double shift = 1.0;                 // sigma -> shift * sigma / (1 + (shift - 1) * sigma)
  bool use_dynamic_shifting = false;  // shift by `mu` of set_timesteps instead
  // For pipelines that derive mu from the picture's size; carried, not used here.
  std::optional<double> base_shift = 0.5;
  std::optional<double> max_shift = 1.15;
  int64_t base_image_seq_len = 256;
  int64_t max_image_seq_len = 4096;
  bool invert_sigmas = false;            // 1 - sigma, ending in 1
  std::optional<double> shift_terminal;  // stretch so that the last sigma before the final 0 is this; 0 is none
  bool use_karras_sigmas = false;        // at most one of the three
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;  // known, not supported
  TimeShiftType time_shift_type = TimeShiftType::exponential;
  bool stochastic_sampling = false;  // every step renoises its estimate of the data

  bool operator==(const FlowMatchEulerDiscreteSchedulerConfig&) const = default;
};

struct SetTimestepsOptions {
  std::optional<double> mu;                      // needed, and used, with use_dynamic_shifting only
  std::optional<std::vector<double>> sigmas;     // own grid, before shifting, without the final 0
  std::optional<std::vector<double>> timesteps;  // the same as timesteps; ignored beside sigmas, but for its length
};

struct StepOptions {
  // With stochastic_sampling: the noise itself (shape of the sample), or else the generator it is drawn from.
  Generator* generator = nullptr;
  Tensor noise;
  // [B,N] float32 timesteps, one per token of a sample [B,N,C]: each token steps to the largest sigma of the schedule
  // below its own.
  Tensor per_token_timesteps;
};

// Holds the schedule and the place in it, both small: copy it per request.
class RAEDIT_API FlowMatchEulerDiscreteScheduler {
 public:
  static constexpr std::string_view kConfigName = "scheduler_config.json";

  // Starts with the schedule of training: num_train_timesteps sigmas, shifted once, no final 0.
  // Throws Error(invalid_argument) for options that are wrong or exclude each other, Error(unsupported) for beta
  // sigmas.
  explicit FlowMatchEulerDiscreteScheduler(const FlowMatchEulerDiscreteSchedulerConfig& config = {});

  // A scheduler_config.json. Throws Error(not_found), or Error(format) for unknown keys and wrong values; keys that
  // begin with '_' are let through.
  static FlowMatchEulerDiscreteScheduler from_config(const std::string& path);
  // FOLDER/scheduler_config.json. save_pretrained makes the folder if needed.
  static FlowMatchEulerDiscreteScheduler from_pretrained(const std::string& folder);
  void save_pretrained(const std::string& folder) const;

  // A schedule of num_inference_steps (or as many as the lists hold) sigmas and a final 0 or, inverted, 1; the next
  // step() is the first. As in diffusers the sigmas of the default grid are shifted twice at the low end, since
  // sigma_min is shifted already. Throws Error(invalid_argument) and then leaves the scheduler as it was.
  void set_timesteps(std::optional<int64_t> num_inference_steps, const SetTimestepsOptions& options = {});

  const FlowMatchEulerDiscreteSchedulerConfig& config() const { return config_; }
  const std::vector<float>& sigmas() const { return sigmas_; }
  const std::vector<float>& timesteps() const { return timesteps_; }  // sigma * num_train_timesteps
  // The ends of the schedule of training.
  float sigma_min() const { return sigma_min_; }
  float sigma_max() const { return sigma_max_; }
  std::optional<int64_t> num_inference_steps() const { return num_inference_steps_; }
  // Where the next step() starts; nothing before the first.
  std::optional<int64_t> step_index() const { return step_index_; }
  std::optional<int64_t> begin_index() const { return begin_index_; }

  // The first step() starts here, whatever its timestep. Until the next set_timesteps.
  void set_begin_index(int64_t begin_index = 0);
  // Takes effect at the next set_timesteps; the config keeps its value.
  double shift() const { return shift_; }
  void set_shift(double shift);

  // The place of a timestep, which must equal one of timesteps() exactly; of several equal ones, the second.
  int64_t index_for_timestep(float timestep) const;

  // x + (sigma_next - sigma) * v for a sample x and the model's velocity v of the same shape. `timestep` matters in the
  // first call only. float32 arithmetic; the result has v's dtype, or float32 with per_token_timesteps. (For a bfloat16
  // v diffusers rounds the product to bfloat16 too, and on a CPU the difference of the sigmas; this does not.) With
  // stochastic_sampling: (1 - sigma_next) * (x - sigma * v) + sigma_next * noise. Throws Error(invalid_argument) past
  // the end of the schedule.
  Tensor step(Context& ctx, const Tensor& model_output, float timestep, const Tensor& sample,
              const StepOptions& options = {});
  // An index is not a timestep: pass timesteps()[i].
  template <std::integral I>
  Tensor step(Context&, const Tensor&, I, const Tensor&, const StepOptions& = {}) = delete;

  // sigma * noise + (1 - sigma) * sample for sample [B,...] and noise, both float32 or bfloat16, and one timestep for
  // each of B (or one for all). With set_begin_index, the sigma is that of the current step. sigma is rounded to the
  // sample's dtype first.
  Tensor scale_noise(Context& ctx, const Tensor& sample, std::span<const float> timesteps, const Tensor& noise) const;

 private:
  Tensor step_per_token(Context& ctx, const Tensor& v, const Tensor& sample, const StepOptions& options) const;
  Tensor noise_for(Context& ctx, const Tensor& sample, const StepOptions& options) const;

  FlowMatchEulerDiscreteSchedulerConfig config_;
  std::vector<float> sigmas_;
  std::vector<float> timesteps_;
  float sigma_min_ = 0;
  float sigma_max_ = 1;
  double shift_ = 1;
  std::optional<int64_t> num_inference_steps_;
  std::optional<int64_t> step_index_;
  std::optional<int64_t> begin_index_;
};

// The grid of the original RAE sampler: 1 - linspace(0, 0.999, num_points) in float32, shifted once; its num_points
// points are num_points - 1 Euler steps and end above 0. To follow it: set_shift(1), pass it as
// SetTimestepsOptions::sigmas, and take num_points - 1 steps (one more would go on to 0).
RAEDIT_API std::vector<double> upstream_sigmas(int num_points, double shift);

}  // namespace raedit
