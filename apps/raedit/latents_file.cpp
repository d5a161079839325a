#include "latents_file.h"

#include <filesystem>
#include <string_view>

#include "core/check.h"
#include "core/text.h"
#include "io/safetensors.h"

namespace raedit::cli {
namespace {

constexpr std::string_view kEnding = ".safetensors";
constexpr const char* kDefaultName = "latents";

std::string pick_name(const SafetensorsFile& file, const std::string& asked) {
  const std::string name = !asked.empty() ? asked : file.names().size() == 1 ? file.names().front() : kDefaultName;
  RAEDIT_CHECK(file.contains(name), {.code = ErrorCode::not_found,
                                     .what = "no tensor '" + name + "' in the file",
                                     .where = file.path(),
                                     .found = join(file.names()),
                                     .hint = "name one: --latents " + file.path() + ":NAME"});
  return name;
}

}  // namespace

Tensor load_latents(const std::string& argument) {
  std::string path = argument, name;
  // A path may have colons of its own; only one after the ending sets a name off.
  const size_t colon = argument.rfind(std::string(kEnding) + ":");
  std::error_code error;
  if (colon != std::string::npos && !std::filesystem::exists(argument, error)) {
    path = argument.substr(0, colon + kEnding.size());
    name = argument.substr(colon + kEnding.size() + 1);
  }
  const SafetensorsFile file = SafetensorsFile::open(path);
  name = pick_name(file, name);
  const TensorInfo& info = file.info(name);
  RAEDIT_CHECK(is_floating(info.dtype) && info.shape.rank() == 4 && info.shape.numel() > 0,
               {.code = ErrorCode::invalid_argument,
                .what = "tensor '" + name + "' cannot be latents",
                .where = path,
                .found = std::string(name_of(info.dtype)) + " " + info.shape.str(),
                .expected = "floating point [pictures, channels, side, side]"});
  return file.tensor(name).to(DType::float32);
}

}  // namespace raedit::cli
