#include "model_path.h"

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <vector>

#include "core/check.h"
#include "core/text.h"

namespace raedit::cli {
namespace fs = std::filesystem;
namespace {

constexpr const char* kBundled = "emoji64";

bool is_model(const fs::path& folder) {
  std::error_code error;
  return fs::is_regular_file(folder / "model_index.json", error);
}

std::optional<std::string> from_environment() {
  const char* value = std::getenv("RAEDIT_MODEL_PATH");
  if (value == nullptr || *value == '\0') return std::nullopt;
  const fs::path folder = value;
  if (is_model(folder)) return folder.string();
  if (is_model(folder / kBundled)) return (folder / kBundled).string();
  raise({.code = ErrorCode::not_found,
         .what = "no model there",
         .where = "RAEDIT_MODEL_PATH",
         .found = folder.string(),
         .expected = "a folder with model_index.json, or with emoji64/model_index.json"});
}

}  // namespace

std::string find_model(const std::string& option) {
  if (!option.empty()) {
    std::error_code error;
    RAEDIT_CHECK(fs::is_directory(option, error), {.code = ErrorCode::not_found,
                                                   .what = "no such model folder",
                                                   .where = "--model",
                                                   .found = option,
                                                   .expected = "a folder in the diffusers layout"});
    return option;
  }
  if (std::optional<std::string> folder = from_environment()) return *folder;

  std::vector<std::string> tried;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) tried.push_back((program.parent_path() / RAEDIT_MODELS_FROM_BIN / kBundled).lexically_normal().string());
  tried.push_back((fs::path(RAEDIT_SOURCE_MODELS) / kBundled).string());
  for (const std::string& folder : tried)
    if (is_model(folder)) return folder;
  raise({.code = ErrorCode::not_found,
         .what = "the bundled model is not there",
         .found = "nothing in " + join(tried, " nor "),
         .hint = "name a model with --model or RAEDIT_MODEL_PATH"});
}

std::string model_name(const std::string& folder) {
  std::error_code error;
  fs::path path = fs::weakly_canonical(folder, error);
  if (error) path = folder;
  return path.filename().string();
}

}  // namespace raedit::cli
