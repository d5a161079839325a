// raedit labels: the classes that a model can draw. Reads model_index.json, or upstream's YAML, alone.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>

#include "command.h"
#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "inspect_upstream.h"
#include "io/files.h"
#include "model_path.h"
#include "pipeline/model_index.h"
#include "values.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "Examples:\n"
    "  raedit labels\n"
    "  raedit labels face\n"
    "  raedit labels --model DIR --json";

struct LabelsOptions {
  ModelOptions model;
  std::string filter;
  bool json = false;
};

std::map<int64_t, std::string> read_labels(const FoundModel& model, const HubOptions& hub) {
  if (model.upstream) return upstream_labels(model.path, model.config, hub);
  const std::string path = (std::filesystem::path(model.path) / "model_index.json").string();
  return read_id2label(parse_json(read_file(path), path), path);
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

int run_labels(const LabelsOptions& options) {
  const HubOptions hub = hub_options(options.model);
  const FoundModel found = find_model(options.model, ModelPart::labels, hub);
  const std::string& model = found.path;
  const std::map<int64_t, std::string> all = read_labels(found, hub);
  RAEDIT_CHECK(!all.empty(), {.code = ErrorCode::not_found,
                              .what = "this model names no classes",
                              .where = model,
                              .hint = "draw them by number: raedit generate --class-id"});
  std::map<int64_t, std::string> shown;
  std::vector<std::string> names;
  for (const auto& [id, label] : all) {
    names.push_back(label);
    if (lower(label).find(lower(options.filter)) != std::string::npos) shown[id] = label;
  }
  RAEDIT_CHECK(!shown.empty(), {.code = ErrorCode::not_found,
                                .what = "no label contains '" + options.filter + "'",
                                .where = model,
                                .hint = did_you_mean(options.filter, names)});
  if (options.json) {
    Json json = Json::array();
    for (const auto& [id, label] : shown) json.push_back({{"id", id}, {"label", label}});
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    return kExitOk;
  }
  const size_t width = fmt::to_string(shown.rbegin()->first).size();
  for (const auto& [id, label] : shown) fmt::print("{:>{}}  {}\n", id, width, label);
  return kExitOk;
}

}  // namespace

Command add_labels(CLI::App& program) {
  auto options = std::make_shared<LabelsOptions>();
  CLI::App* app = program.add_subcommand("labels", "List the classes that a model can draw");
  app->add_option("FILTER", options->filter, "only labels that contain this, in any case")->type_name("");
  add_model_options(*app, options->model);
  add_switch(*app, "--json", options->json, "print a JSON array");
  app->footer(kFooter);
  return {app, [options] { return run_labels(*options); }};
}

}  // namespace raedit::cli
