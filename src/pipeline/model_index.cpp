#include "pipeline/model_index.h"

#include <fmt/format.h>

#include "core/check.h"
#include "core/text.h"

namespace raedit {

std::map<int64_t, std::string> read_id2label(const Json& index, const std::string& path) {
  std::map<int64_t, std::string> id2label;
  if (!index.is_object() || !index.contains("id2label") || index["id2label"].is_null()) return id2label;
  const auto bad = [&](const std::string& found) {
    raise({.code = ErrorCode::format,
           .what = "id2label is not a map from class ids to names",
           .where = path,
           .found = found,
           .expected = "{\"0\": \"name\", ...}"});
  };
  if (!index["id2label"].is_object()) bad(index["id2label"].type_name());
  for (const auto& [key, value] : index["id2label"].items()) {
    const std::optional<int64_t> id = number_of<int64_t>(key);
    if (!id || *id < 0 || !value.is_string()) bad(fmt::format("'{}'", key));
    id2label[*id] = value.get<std::string>();
  }
  return id2label;
}

Json model_index(const std::map<int64_t, std::string>& id2label) {
  Json index;
  index["_class_name"] = "RAEDiTPipeline";
  for (const auto& [id, label] : id2label) index["id2label"][std::to_string(id)] = label;
  index["scheduler"] = {"diffusers", "FlowMatchEulerDiscreteScheduler"};
  index["transformer"] = {"diffusers", "RAEDiT2DModel"};
  index["vae"] = {"diffusers", "AutoencoderRAE"};
  return index;
}

}  // namespace raedit
