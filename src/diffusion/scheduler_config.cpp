#include "diffusion/scheduler_config.h"

#include "core/check.h"
#include "core/json.h"
#include "io/files.h"

namespace raedit::diffusion {
namespace {

constexpr const char* kClassName = "FlowMatchEulerDiscreteScheduler";

const char* name_of(TimeShiftType type) {
  return type == TimeShiftType::exponential ? "exponential" : "linear";
}

// A missing key keeps the default, null is no value.
void read_nullable(JsonReader& reader, const char* key, std::optional<double>& value) {
  const std::optional<double> found = reader.optional_number(key);
  if (reader.has(key)) value = found;
}

Json nullable(std::optional<double> value) {
  return value ? Json(*value) : Json(nullptr);
}

}  // namespace

FlowMatchEulerDiscreteSchedulerConfig read_scheduler_config(const std::string& path) {
  const Json json = parse_json(read_file(path), path);
  JsonReader reader(json, path);
  FlowMatchEulerDiscreteSchedulerConfig c;
  if (reader.string("_class_name", kClassName) != kClassName)
    reader.fail("_class_name", std::string("\"") + kClassName + "\", the scheduler that RAE pipelines use");

  c.num_train_timesteps = reader.int64("num_train_timesteps", c.num_train_timesteps);
  c.shift = reader.number("shift", c.shift);
  c.use_dynamic_shifting = reader.boolean("use_dynamic_shifting", c.use_dynamic_shifting);
  read_nullable(reader, "base_shift", c.base_shift);
  read_nullable(reader, "max_shift", c.max_shift);
  c.base_image_seq_len = reader.int64("base_image_seq_len", c.base_image_seq_len);
  c.max_image_seq_len = reader.int64("max_image_seq_len", c.max_image_seq_len);
  c.invert_sigmas = reader.boolean("invert_sigmas", c.invert_sigmas);
  read_nullable(reader, "shift_terminal", c.shift_terminal);
  c.use_karras_sigmas = reader.boolean("use_karras_sigmas", c.use_karras_sigmas);
  c.use_exponential_sigmas = reader.boolean("use_exponential_sigmas", c.use_exponential_sigmas);
  c.use_beta_sigmas = reader.boolean("use_beta_sigmas", c.use_beta_sigmas);
  const std::string type = reader.string("time_shift_type", name_of(c.time_shift_type));
  if (type == "linear")
    c.time_shift_type = TimeShiftType::linear;
  else if (type != "exponential")
    reader.fail("time_shift_type", "\"exponential\" or \"linear\"");
  c.stochastic_sampling = reader.boolean("stochastic_sampling", c.stochastic_sampling);
  reader.finish();
  return c;
}

void write_scheduler_config(const std::string& path, const FlowMatchEulerDiscreteSchedulerConfig& c) {
  // Sorted by name, as diffusers does.
  const Json json = {
      {"_class_name", kClassName},
      {"base_image_seq_len", c.base_image_seq_len},
      {"base_shift", nullable(c.base_shift)},
      {"invert_sigmas", c.invert_sigmas},
      {"max_image_seq_len", c.max_image_seq_len},
      {"max_shift", nullable(c.max_shift)},
      {"num_train_timesteps", c.num_train_timesteps},
      {"shift", c.shift},
      {"shift_terminal", nullable(c.shift_terminal)},
      {"stochastic_sampling", c.stochastic_sampling},
      {"time_shift_type", name_of(c.time_shift_type)},
      {"use_beta_sigmas", c.use_beta_sigmas},
      {"use_dynamic_shifting", c.use_dynamic_shifting},
      {"use_exponential_sigmas", c.use_exponential_sigmas},
      {"use_karras_sigmas", c.use_karras_sigmas},
  };
  write_file(path, json.dump(2) + "\n");
}

}  // namespace raedit::diffusion
