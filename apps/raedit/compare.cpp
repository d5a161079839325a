// raedit compare: two files of tensors, tensor by tensor.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>

#include "command.h"
#include "core/json.h"
#include "difference.h"
#include "io/weight_folder.h"
#include "values.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "An element is beyond tolerance when |a - b| > atol + rtol * |b|. The exit code is 1 when one is, when a\n"
    "tensor is in one file only, or when shapes differ. Relative differences are |a - b| / |b| where b is not 0;\n"
    "'of largest' is the largest |a - b| over the largest |b|. NaN equals NaN and nothing else; an infinity equals\n"
    "itself. Element types may differ: values are compared in float64.\n"
    "\n"
    "Examples:\n"
    "  raedit compare ours.safetensors reference.safetensors --atol 2e-5\n"
    "  raedit compare stage2_model.pt exported/stage2_model.pt\n"
    "  raedit compare a.safetensors b.safetensors --rtol 1e-5 --json";

struct CompareOptions {
  std::string a, b;
  Tolerance tolerance;
  bool json = false;
};

struct Row {
  std::string name;
  std::string status;  // "ok", "beyond tolerance", "only in A", "only in B", "shapes differ"
  std::string type_a, type_b;
  Difference difference;

  bool ok() const { return status == "ok"; }
  bool compared() const { return ok() || status == "beyond tolerance"; }
};

std::string describe(const TensorInfo& info) {
  return fmt::format("{} {}", name_of(info.dtype), info.shape.str());
}

Row compare_one(const std::string& name, const WeightSet& a, const WeightSet& b, const Tolerance& tolerance) {
  Row row{name, "", "", "", {}};
  if (a.contains(name)) row.type_a = describe(a.info(name));
  if (b.contains(name)) row.type_b = describe(b.info(name));
  if (!a.contains(name) || !b.contains(name)) {
    row.status = a.contains(name) ? "only in A" : "only in B";
  } else if (!(a.info(name).shape == b.info(name).shape)) {
    row.status = "shapes differ";
  } else {
    row.difference = compare_tensors(a.tensor(name), b.tensor(name), tolerance);
    row.status = row.difference.beyond > 0 ? "beyond tolerance" : "ok";
    a.drop_pages(name);
    b.drop_pages(name);
  }
  return row;
}

double of_largest(const Difference& d) {
  return d.largest > 0 ? d.max_abs / d.largest : 0;
}

Json to_json(const std::vector<Row>& rows, const CompareOptions& options, bool equal) {
  Json tensors = Json::array();
  for (const Row& row : rows) {
    Json entry{{"name", row.name}, {"status", row.status}, {"a", row.type_a}, {"b", row.type_b}};
    if (row.compared()) {
      const Difference& d = row.difference;
      entry["elements"] = d.count;
      entry["beyond"] = d.beyond;
      entry["max_abs"] = d.max_abs;
      entry["mean_abs"] = d.mean_abs;
      entry["max_rel"] = d.max_rel;
      entry["mean_rel"] = d.mean_rel;
      entry["max_abs_of_largest"] = of_largest(d);
      entry["nan_in_both"] = d.both_nan;
      entry["nan_or_infinity_against_other"] = d.unequal_special;
    }
    tensors.push_back(entry);
  }
  return {{"a", options.a},
          {"b", options.b},
          {"atol", options.tolerance.atol},
          {"rtol", options.tolerance.rtol},
          {"within_tolerance", equal},
          {"tensors", tensors}};
}

std::string verdict(const Row& row) {
  const Difference& d = row.difference;
  if (!row.compared()) {
    if (row.status == "shapes differ") return fmt::format("SHAPES DIFFER: {} and {}", row.type_a, row.type_b);
    return fmt::format("ONLY IN {}: {}", row.type_a.empty() ? "B" : "A", row.type_a.empty() ? row.type_b : row.type_a);
  }
  std::string text = row.ok() ? "ok" : fmt::format("{} of {} BEYOND", d.beyond, d.count);
  if (d.unequal_special > 0) text += fmt::format(", {} NaN or infinity in one only", d.unequal_special);
  if (d.both_nan > 0) text += fmt::format(", {} NaN in both", d.both_nan);
  return text;
}

void print_table(const std::vector<Row>& rows) {
  size_t width = 6;
  for (const Row& row : rows) width = std::max(width, row.name.size());
  fmt::print("{:<{}}  {:>9}  {:>9}  {:>9}  {:>9}  {:>10}\n", "tensor", width, "max abs", "mean abs", "max rel",
             "mean rel", "of largest");
  for (const Row& row : rows) {
    const Difference& d = row.difference;
    if (row.compared())
      fmt::print("{:<{}}  {:>9.3g}  {:>9.3g}  {:>9.3g}  {:>9.3g}  {:>10.3g}  {}\n", row.name, width, d.max_abs,
                 d.mean_abs, d.max_rel, d.mean_rel, of_largest(d), verdict(row));
    else
      fmt::print("{:<{}}  {}\n", row.name, width, verdict(row));
  }
}

int run_compare(const CompareOptions& options) {
  const std::shared_ptr<const WeightSet> file_a = open_weight_file(options.a), file_b = open_weight_file(options.b);
  const WeightSet &a = *file_a, &b = *file_b;
  std::set<std::string> names(a.names().begin(), a.names().end());
  names.insert(b.names().begin(), b.names().end());
  std::vector<Row> rows;
  for (const std::string& name : names) rows.push_back(compare_one(name, a, b, options.tolerance));
  const auto bad = std::count_if(rows.begin(), rows.end(), [](const Row& row) { return !row.ok(); });
  if (options.json) {
    fmt::print("{}\n", to_json(rows, options, bad == 0).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    print_table(rows);
    fmt::print("{} of {} tensors agree (atol {}, rtol {})\n", static_cast<int64_t>(rows.size()) - bad, rows.size(),
               options.tolerance.atol, options.tolerance.rtol);
  }
  return bad == 0 ? kExitOk : kExitFailure;
}

}  // namespace

Command add_compare(CLI::App& program) {
  auto options = std::make_shared<CompareOptions>();
  CLI::App* app = program.add_subcommand("compare", "Compare two files of tensors, tensor by tensor");
  app->add_option("A", options->a, "a .safetensors file, or a torch file that is a dict of tensors")
      ->required()
      ->type_name("");
  app->add_option("B", options->b, "the one to compare it with")->required()->type_name("");
  app->add_option("--atol", options->tolerance.atol, "allowed absolute difference (default 0)")
      ->type_name("X")
      ->check(number(0));
  app->add_option("--rtol", options->tolerance.rtol, "allowed difference relative to |b| (default 0)")
      ->type_name("X")
      ->check(number(0));
  add_switch(*app, "--json", options->json, "print one JSON object");
  app->footer(kFooter);
  return {app, [options] { return run_compare(*options); }};
}

}  // namespace raedit::cli
