// What upstream's YAML means for the diffusers layout. Source: diffusers' scripts/convert_rae_stage2_to_diffusers.py
// (build_transformer_config, build_scheduler_config) and upstream's stage2/models/DDT.py, whose constructor knows the
// parameters.
#include "convert/upstream_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/text.h"

namespace raedit::convert {
namespace {

std::string shorten(std::string text) {
  constexpr size_t kLongest = 100;
  if (text.size() <= kLongest) return text;
  size_t end = kLongest;
  while ((static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not inside a character
  return text.substr(0, end) + "...";
}

std::string describe(const Json& value) {
  return shorten(value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

[[noreturn]] void fail(const std::string& where, const Json& found, std::string expected) {
  raise({.code = ErrorCode::format,
         .what = "the value is wrong",
         .where = where,
         .found = describe(found),
         .expected = std::move(expected)});
}

// As Python's int() would read it, but nothing is cut off: 16 and 16.0, not 16.5, "16" or true.
std::optional<int64_t> as_integer(const Json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (std::abs(number) > 0x1p53 || number != std::floor(number)) return std::nullopt;  // NaN is not equal to itself
  return static_cast<int64_t>(number);
}

// One mapping of the file, whose keys are asked for by name. `where` names it: "config.yaml: stage_2.params".
class Section {
 public:
  Section(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail(where_, object, "a mapping");
  }

  std::string place(const std::string& key) const { return where_ + "." + key; }

  const Json* find(const std::string& key) {
    asked_.push_back(key);
    const auto found = object_.find(key);
    return found == object_.end() ? nullptr : &*found;
  }

  const Json& require(const std::string& key) {
    const Json* value = find(key);
    if (value != nullptr) return *value;
    std::vector<std::string> present;
    for (const auto& [name, item] : object_.items()) present.push_back(name);
    const std::vector<std::string> near = nearest(key, present, 1);
    raise({.code = ErrorCode::format,
           .what = "the key is missing",
           .where = place(key),
           .found = near.empty() ? "" : fmt::format("'{}'", near[0])});
  }

  int64_t integer(const std::string& key) {
    const Json& value = require(key);
    const std::optional<int64_t> number = as_integer(value);
    if (!number) fail(place(key), value, "an integer");
    return *number;
  }
  int64_t integer(const std::string& key, int64_t fallback) { return has(key) ? integer(key) : fallback; }

  double number(const std::string& key, double fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_number() || !std::isfinite(value->get<double>())) fail(place(key), *value, "a finite number");
    return value->get<double>();
  }

  bool boolean(const std::string& key, bool fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) fail(place(key), *value, "true or false");
    return value->get<bool>();
  }

  std::string string(const std::string& key, const std::string& fallback) {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) fail(place(key), *value, "a string");
    return value->get<std::string>();
  }

  std::optional<std::string> optional_string(const std::string& key) {
    if (const Json* value = find(key); value == nullptr || value->is_null()) return std::nullopt;
    return string(key, "");
  }

  // Missing and null are an empty mapping.
  Json mapping(const std::string& key) {
    const Json* value = find(key);
    if (value == nullptr || value->is_null()) return Json::object();
    if (!value->is_object()) fail(place(key), *value, "a mapping");
    return *value;
  }

  std::array<int64_t, 2> pair(const std::string& key) {
    const Json& value = require(key);
    if (const std::optional<int64_t> both = as_integer(value)) return {*both, *both};
    const std::optional<std::vector<int64_t>> list = integers(value);
    if (!list || list->size() != 2) fail(place(key), value, "an integer or a list of two");
    return {(*list)[0], (*list)[1]};
  }
  std::array<int64_t, 2> pair(const std::string& key, std::array<int64_t, 2> fallback) {
    return has(key) ? pair(key) : fallback;
  }

  // Missing and null are nullopt.
  std::optional<std::vector<int64_t>> optional_list(const std::string& key) {
    const Json* value = find(key);
    if (value == nullptr || value->is_null()) return std::nullopt;
    std::optional<std::vector<int64_t>> list = integers(*value);
    if (!list) fail(place(key), *value, "a list of integers");
    return list;
  }

  // Throws for a key that nobody asked for.
  void finish(const std::string& owner) const {
    for (const auto& [key, value] : object_.items()) {
      if (std::find(asked_.begin(), asked_.end(), key) != asked_.end()) continue;
      std::string hint = did_you_mean(key, asked_);
      if (hint.empty()) hint = fmt::format("known keys: {}", join(asked_));
      raise({.code = ErrorCode::format,
             .what = fmt::format("{} has no such parameter", owner),
             .where = place(key),
             .found = describe(value),
             .hint = std::move(hint)});
    }
  }

 private:
  bool has(const std::string& key) { return find(key) != nullptr; }

  static std::optional<std::vector<int64_t>> integers(const Json& value) {
    if (!value.is_array()) return std::nullopt;
    std::vector<int64_t> list;
    for (const Json& item : value) {
      const std::optional<int64_t> number = as_integer(item);
      if (!number) return std::nullopt;
      list.push_back(*number);
    }
    return list;
  }

  const Json& object_;
  std::string where_;
  std::vector<std::string> asked_;
};

UpstreamModel parse_model(const Json& json, const std::string& where) {
  Section section(json, where);
  UpstreamModel model;
  model.target = section.optional_string("target").value_or("");
  model.params = section.mapping("params");
  model.ckpt = section.optional_string("ckpt");
  model.where = where;
  return model;
}

// The first of two spellings that is there and not null.
std::optional<UpstreamModel> find_model(const Json& yaml, const std::string& where,
                                        std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto found = yaml.find(name);
    if (found != yaml.end() && !found->is_null()) return parse_model(*found, where + ": " + name);
  }
  return std::nullopt;
}

Json find_mapping(const Json& yaml, const std::string& where, const char* name) {
  const auto found = yaml.find(name);
  if (found == yaml.end() || found->is_null()) return Json::object();
  if (!found->is_object()) fail(where + ": " + name, *found, "a mapping");
  return *found;
}

// "config.yaml: stage_2" -> "config.yaml: misc"
std::string misc_beside(const std::string& model_where) {
  const size_t colon = model_where.rfind(": ");
  return colon == std::string::npos ? "misc" : model_where.substr(0, colon) + ": misc";
}

void check_latent_size(const UpstreamModel& model, const Json& misc, int64_t in_channels, int64_t input_size) {
  Section section(misc, misc_beside(model.where));
  const std::optional<std::vector<int64_t>> latent_size = section.optional_list("latent_size");
  if (!latent_size) return;
  const Json& found = misc.at("latent_size");
  if (latent_size->size() != 3) fail(section.place("latent_size"), found, "three integers: channels, height, width");
  const std::vector<int64_t> expected{in_channels, input_size, input_size};
  if (*latent_size != expected)
    fail(section.place("latent_size"), found,
         fmt::format("{}, from in_channels and input_size of {}.params", Json(expected).dump(), model.where));
}

int64_t product(const std::vector<int64_t>& sizes, const Section& misc, const Json& found) {
  int64_t value = 1;
  for (const int64_t size : sizes)
    if (size <= 0 || __builtin_mul_overflow(value, size, &value))
      fail(misc.place("latent_size"), found, "sizes above 0 whose product is no astronomical number");
  return value;
}

bool same_without_case(std::string_view a, std::string_view lower) {
  return std::equal(a.begin(), a.end(), lower.begin(), lower.end(),
                    [](char x, char y) { return (x >= 'A' && x <= 'Z' ? static_cast<char>(x - 'A' + 'a') : x) == y; });
}

void require_transport(Section& transport, const char* key, const char* name, std::string_view lower) {
  const std::string found = transport.string(key, name);
  RAEDIT_CHECK(same_without_case(found, lower), {.code = ErrorCode::unsupported,
                                                 .what = "FlowMatchEulerDiscreteScheduler cannot sample this model",
                                                 .where = transport.place(key),
                                                 .found = shorten(found),
                                                 .expected = name});
}

}  // namespace

UpstreamConfig parse_upstream_config(const Json& yaml, const std::string& where) {
  if (!yaml.is_object()) fail(where, yaml, "a mapping");
  UpstreamConfig config;
  config.where = where;
  config.stage_1 = find_model(yaml, where, {"stage_1", "stage1"});
  config.stage_2 = find_model(yaml, where, {"stage_2", "stage2"});
  const Json transport = find_mapping(yaml, where, "transport");
  config.transport_params = Section(transport, where + ": transport").mapping("params");
  config.sampler = find_mapping(yaml, where, "sampler");
  config.guidance = find_mapping(yaml, where, "guidance");
  config.misc = find_mapping(yaml, where, "misc");

  const Json sampler_params = Section(config.sampler, where + ": sampler").mapping("params");
  Section sampler(sampler_params, where + ": sampler.params");
  config.num_steps = sampler.integer("num_steps", config.num_steps);
  if (config.num_steps < 1) fail(sampler.place("num_steps"), config.num_steps, "1 or more");

  Section guidance(config.guidance, where + ": guidance");
  config.guidance_method = guidance.string("method", config.guidance_method);
  config.guidance_scale = guidance.number("scale", config.guidance_scale);
  // The name with the hyphen goes before, as in the script.
  config.guidance_t_min = guidance.number("t-min", guidance.number("t_min", config.guidance_t_min));
  config.guidance_t_max = guidance.number("t-max", guidance.number("t_max", config.guidance_t_max));
  if (const Json* model = guidance.find("guidance_model"); model != nullptr && !model->is_null())
    config.guidance_model = parse_model(*model, guidance.place("guidance_model"));
  return config;
}

Json transformer_config(const UpstreamModel& model, const Json& misc) {
  const bool known = model.target.empty() || model.target == "DiTwDDTHead" || model.target.ends_with(".DiTwDDTHead");
  RAEDIT_CHECK(known, {.code = ErrorCode::unsupported,
                       .what = "only upstream's DiTwDDTHead has a counterpart in diffusers",
                       .where = model.where + ".target",
                       .found = shorten(model.target),
                       .expected = "stage2.models.DDT.DiTwDDTHead"});
  Section params(model.params, model.where + ".params");
  const std::array<int64_t, 2> hidden_size = params.pair("hidden_size");
  const std::array<int64_t, 2> depth = params.pair("depth");
  const std::array<int64_t, 2> num_heads = params.pair("num_heads");
  const std::array<int64_t, 2> patch_size = params.pair("patch_size", {1, 1});
  const int64_t input_size = params.integer("input_size"), in_channels = params.integer("in_channels");
  check_latent_size(model, misc, in_channels, input_size);

  Json config{{"_class_name", "RAEDiT2DModel"}, {"sample_size", input_size}};
  config["patch_size"] = patch_size[0] == patch_size[1] ? Json(patch_size[0]) : Json(patch_size);
  config["in_channels"] = in_channels;
  config["hidden_size"] = hidden_size;
  config["depth"] = depth;
  config["num_heads"] = num_heads;
  config["mlp_ratio"] = params.number("mlp_ratio", 4.0);
  config["class_dropout_prob"] = params.number("class_dropout_prob", 0.1);
  config["num_classes"] = params.find("num_classes") != nullptr
                              ? params.integer("num_classes")
                              : Section(misc, misc_beside(model.where)).integer("num_classes", 1000);
  config["use_qknorm"] = params.boolean("use_qknorm", false);
  config["use_swiglu"] = params.boolean("use_swiglu", true);
  config["use_rope"] = params.boolean("use_rope", true);
  config["use_rmsnorm"] = params.boolean("use_rmsnorm", true);
  config["wo_shift"] = params.boolean("wo_shift", false);
  config["use_pos_embed"] = params.boolean("use_pos_embed", true);
  params.finish("DiTwDDTHead");
  return config;
}

FlowMatchEulerDiscreteSchedulerConfig scheduler_config(const UpstreamConfig& config) {
  Section transport(config.transport_params, config.where + ": transport.params");
  require_transport(transport, "path_type", "Linear", "linear");
  require_transport(transport, "prediction", "velocity", "velocity");

  Section misc(config.misc, config.where + ": misc");
  const std::optional<std::vector<int64_t>> latent_size = misc.optional_list("latent_size");
  RAEDIT_CHECK(latent_size.has_value(), {.code = ErrorCode::format,
                                         .what = "the key is missing",
                                         .where = misc.place("latent_size"),
                                         .expected = "channels, height and width, from which the shift follows"});
  const int64_t elements = product(*latent_size, misc, config.misc.at("latent_size"));
  const int64_t dim = misc.integer("time_dist_shift_dim", elements);
  const int64_t base = misc.integer("time_dist_shift_base", 4096);
  if (dim < 1) fail(misc.place("time_dist_shift_dim"), dim, "1 or more");
  if (base < 1) fail(misc.place("time_dist_shift_base"), base, "1 or more");

  FlowMatchEulerDiscreteSchedulerConfig scheduler;
  scheduler.num_train_timesteps = transport.integer("num_train_timesteps", 1000);
  if (scheduler.num_train_timesteps < 1)
    fail(transport.place("num_train_timesteps"), scheduler.num_train_timesteps, "1 or more");
  scheduler.shift = std::sqrt(static_cast<double>(dim) / static_cast<double>(base));
  return scheduler;
}

}  // namespace raedit::convert
