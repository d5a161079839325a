// raedit info: what a model folder or a file of tensors is, down to every tensor.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "command.h"
#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "inspect.h"
#include "model_path.h"
#include "transfer.h"
#include "values.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "PATH is the folder of a pipeline, the folder of one component, a folder of upstream's, or any .safetensors or\n"
    "torch file. No weights are loaded, and nothing in a file is executed. Memory is what weights take once\n"
    "converted, and roughly what one picture's activations add; with guidance, or a batch of several, activations\n"
    "multiply. The exit code is 1 when something could not be loaded.\n"
    "\n"
    "Examples:\n"
    "  raedit info models/emoji64\n"
    "  raedit info models/emoji64/transformer --tensors\n"
    "  raedit info stage2_model.pt --tensors\n"
    "  raedit info pictures.safetensors --json";

struct InfoOptions {
  std::string path;
  ModelOptions hub;  // where a name is looked for
  bool tensors = false;
  bool json = false;
};

struct TypeTotal {
  size_t tensors = 0;
  int64_t numbers = 0;
  uint64_t bytes = 0;
};

std::map<std::string, TypeTotal> totals_by_type(const Component& component) {
  std::map<std::string, TypeTotal> totals;
  for (const TensorRow& row : component.tensors) {
    TypeTotal& total = totals[row.dtype];
    ++total.tensors;
    total.numbers += row.shape.numel();
    total.bytes += row.bytes;
  }
  return totals;
}

Json shape_json(const Shape& shape) {
  Json json = Json::array();
  for (const int64_t n : shape) json.push_back(n);
  return json;
}

Json memory_json(const Memory& m) {
  return {
      {"weights_bytes", m.weights}, {"encoder_weights_bytes", m.encoder_weights}, {"activation_bytes", m.activations}};
}

Json to_json(const Component& c, bool with_tensors) {
  Json json{{"name", c.name}, {"kind", c.kind}, {"path", c.path}, {"config", c.config}, {"metadata", c.metadata}};
  json["parameters"] = c.parameters;
  json["buffer_numbers"] = c.buffer_numbers;
  if (!c.entries.empty()) json["entries"] = Json::array();
  for (const auto& [name, what] : c.entries) json["entries"].push_back({{"name", name}, {"is", what}});
  json["dtypes"] = Json::object();
  for (const auto& [type, total] : totals_by_type(c))
    json["dtypes"][type] = {{"tensors", total.tensors}, {"numbers", total.numbers}, {"bytes", total.bytes}};
  json["files"] = Json::array();
  for (const auto& [name, bytes] : c.files) json["files"].push_back({{"name", name}, {"bytes", bytes}});
  json["tables"] = Json::object();
  for (const auto& [name, loaded] : c.tables) json["tables"][name] = loaded ? "loaded" : "computed";
  if (c.float32) json["memory"] = {{"float32", memory_json(*c.float32)}, {"bfloat16", memory_json(*c.bfloat16)}};
  if (!c.problem.empty()) json["problem"] = c.problem;
  if (!with_tensors) return json;
  json["tensors"] = Json::array();
  for (const TensorRow& row : c.tensors)
    json["tensors"].push_back({{"name", row.name},
                               {"dtype", row.dtype},
                               {"shape", shape_json(row.shape)},
                               {"bytes", row.bytes},
                               {"role", row.role}});
  return json;
}

void print_config(const Component& c) {
  size_t width = 0;
  for (const auto& [key, value] : c.config.items()) width = std::max(width, key.size());
  for (const auto& [key, value] : c.config.items())
    fmt::print(
        "    {:<{}}  {}\n", key, width,
        value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void print_entries(const Component& c) {
  size_t width = 0;
  for (const auto& [name, what] : c.entries) width = std::max(width, name.size());
  for (const auto& [name, what] : c.entries)
    fmt::print("    {:<{}}{}{}\n", name, width, name.empty() ? "" : "  ", what);
}

std::string describe(const Memory& m) {
  const std::string encoder =
      m.encoder_weights > 0 ? fmt::format(" (+ {} for the encoder)", human_bytes(m.encoder_weights)) : "";
  return fmt::format("{} weights{} + {} activations", human_bytes(m.weights), encoder, human_bytes(m.activations));
}

void print_tensors(const Component& c) {
  size_t width = 6;
  for (const TensorRow& row : c.tensors) width = std::max(width, row.name.size());
  for (const TensorRow& row : c.tensors)
    fmt::print("    {:<{}}  {:<13}  {:<20}  {:>10}{}{}\n", row.name, width, row.dtype, row.shape.str(),
               human_bytes(row.bytes), row.role.empty() ? "" : "  ", row.role);
}

void print_weights(const Component& c, bool model) {
  if (model)
    fmt::print("  parameters  {}, and {} numbers in buffers\n", grouped(c.parameters), grouped(c.buffer_numbers));
  else
    fmt::print("  numbers     {}\n", grouped(c.parameters));
  for (const auto& [type, total] : totals_by_type(c))
    fmt::print("  {:<10}  {} tensor{}, {} numbers, {}\n", type, total.tensors, total.tensors == 1 ? "" : "s",
               grouped(total.numbers), human_bytes(total.bytes));
  for (const auto& [name, bytes] : c.files) fmt::print("  file        {}  {}\n", name, human_bytes(bytes));
  for (const auto& [name, loaded] : c.tables)
    fmt::print("  table       {}: {}\n", name,
               loaded ? "loaded from the checkpoint" : "not in the checkpoint, computed");
  if (c.float32) {
    fmt::print("  float32     needs {}\n", describe(*c.float32));
    fmt::print("  bfloat16    needs {}\n", describe(*c.bfloat16));
  }
}

void print_component(const Component& c, bool with_tensors) {
  fmt::print("\n{}{}{}\n", c.name, c.name.empty() ? "" : ": ", c.kind.empty() ? "unknown kind" : c.kind);
  if (c.config.is_object() && !c.config.empty()) {
    fmt::print("  config\n");
    print_config(c);
  }
  if (!c.entries.empty()) {
    fmt::print("  content\n");
    print_entries(c);
  }
  for (const auto& [key, value] : c.metadata) fmt::print("  metadata    {}: {}\n", key, value);
  if (!c.tensors.empty()) print_weights(c, c.float32.has_value());
  if (with_tensors && !c.tensors.empty()) {
    fmt::print("  tensors\n");
    print_tensors(c);
  }
  if (!c.problem.empty()) fmt::print("  CANNOT BE LOADED: {}\n", c.problem);
}

void print_total(const Inspection& inspection) {
  Memory f32, bf16;
  for (const Component& c : inspection.components) {
    if (!c.float32) continue;
    f32.weights += c.float32->weights;
    bf16.weights += c.bfloat16->weights;
    f32.activations = std::max(f32.activations, c.float32->activations);
    bf16.activations = std::max(bf16.activations, c.bfloat16->activations);
  }
  if (f32.weights == 0) return;
  fmt::print("\nto generate one picture at a time\n");
  fmt::print("  float32     about {}\n", human_bytes(f32.weights + f32.activations));
  fmt::print("  bfloat16    about {}\n", human_bytes(bf16.weights + bf16.activations));
}

// A name's files are fetched as `generate` would.
std::string path_of(const InfoOptions& options) {
  if (!is_model_name(options.path)) return options.path;
  ProgressBar bar(ProgressBar::style_of_stderr(options.json));
  const Interrupt interrupt;
  Transfer transfer(bar, interrupt);
  HubOptions hub = hub_options(options.hub);
  hub.progress = transfer.downloads();
  const FoundModel found = resolve_model(options.path, "", ModelPart::pipeline, hub);
  RAEDIT_CHECK(!found.upstream, {.code = ErrorCode::unsupported,
                                 .what = "this is an upstream repository; info shows those that are folders here",
                                 .where = options.path,
                                 .hint = "'raedit convert pipeline --dry_run' checks it"});
  return found.path;
}

int run_info(const InfoOptions& options) {
  const Inspection inspection = inspect(path_of(options));
  const bool broken = std::any_of(inspection.components.begin(), inspection.components.end(),
                                  [](const Component& c) { return !c.problem.empty(); });
  if (options.json) {
    Json json{{"path", inspection.path}, {"kind", inspection.kind}, {"labels", inspection.labels}};
    json["components"] = Json::array();
    for (const Component& c : inspection.components) json["components"].push_back(to_json(c, options.tensors));
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("{}: {}", inspection.path, inspection.kind);
    if (inspection.labels > 0) fmt::print(", {} labels", inspection.labels);
    fmt::print("\n");
    for (const Component& c : inspection.components) print_component(c, options.tensors);
    if (inspection.components.size() > 1) print_total(inspection);
  }
  return broken ? kExitFailure : kExitOk;
}

}  // namespace

Command add_info(CLI::App& program) {
  auto options = std::make_shared<InfoOptions>();
  CLI::App* app = program.add_subcommand("info", "Say what a model folder or a file of tensors is");
  app->add_option("PATH", options->path, "a model folder, a .safetensors file or a torch file, or org/name[@revision]")
      ->required()
      ->type_name("");
  add_switch(*app, "--tensors", options->tensors, "list every tensor: name, type, shape, bytes, role");
  add_switch(*app, "--json", options->json, "print one JSON object");
  add_hub_options(*app, options->hub);
  app->footer(kFooter);
  return {app, [options] { return run_info(*options); }};
}

}  // namespace raedit::cli
