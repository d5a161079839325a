#include "train/metrics_file.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <string_view>

#include "core/check.h"
#include "io/files.h"

namespace raedit::train {
namespace {

constexpr size_t kMaxFileBytes = size_t{4} << 30;

std::optional<int64_t> step_of(const Json& metrics) {
  if (!metrics.is_object()) return std::nullopt;
  const auto step = metrics.find("step");
  if (step == metrics.end() || !step->is_number_integer()) return std::nullopt;
  return step->get<int64_t>();
}

// The lines to keep, each with its end. A line without an end is torn unless it is a whole object: no part of an
// object is one.
std::string lines_up_to(int64_t last_step, std::string_view content, const std::string& path) {
  std::string kept;
  for (int64_t number = 1; !content.empty(); ++number) {
    const size_t end = content.find('\n');
    const std::string_view line = content.substr(0, end);
    const bool last = end == content.npos;
    content.remove_prefix(last ? content.size() : end + 1);
    const std::string where = fmt::format("{}:{}", path, number);
    std::optional<int64_t> step;
    try {
      step = step_of(parse_json(line, where));
    } catch (const Error&) {
      if (last) break;
      throw;
    }
    RAEDIT_CHECK(step, {.code = ErrorCode::format,
                        .what = "is not a line of metrics",
                        .where = where,
                        .expected = "an object with an integer \"step\""});
    if (*step <= last_step) kept.append(line).append(1, '\n');
  }
  return kept;
}

}  // namespace

MetricsFile MetricsFile::create(const std::string& path) {
  AppendFile file = AppendFile::create_new(path);
  RAEDIT_CHECK(file.is_open(), {.code = ErrorCode::io,
                                .what = "the metrics of another run are here",
                                .where = path,
                                .hint = "resume that run or choose another folder"});
  return MetricsFile(std::move(file));
}

MetricsFile MetricsFile::resume(const std::string& path, int64_t step) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) {
    const std::string content = read_file(path, kMaxFileBytes);
    const std::string kept = lines_up_to(step, content, path);
    if (kept != content) write_file(path, kept);
  }
  return MetricsFile(AppendFile::open(path));
}

void MetricsFile::append(const Json& metrics) {
  RAEDIT_CHECK(step_of(metrics), {.code = ErrorCode::invalid_argument,
                                  .what = "metrics without a step",
                                  .where = path(),
                                  .expected = "an object with an integer \"step\""});
  std::string line;
  try {
    line = metrics.dump() + "\n";
  } catch (const Json::exception& error) {
    raise({.code = ErrorCode::invalid_argument,
           .what = "metrics that JSON cannot hold",
           .where = path(),
           .found = error.what(),
           .expected = "UTF-8 text"});
  }
  file_.append(line);
}

}  // namespace raedit::train
