#include "picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "core/json.h"
#include "core/text.h"
#include "version.h"

namespace raedit::cli {
namespace {

constexpr size_t kLongestLabel = 40;  // bytes of a label in a file name

std::string each(const std::vector<Picture>& pictures, const char* separator,
                 const std::function<std::string(const Picture&)>& text) {
  std::vector<std::string> values;
  for (const Picture& picture : pictures) values.push_back(text(picture));
  const bool same = std::all_of(values.begin(), values.end(), [&](const std::string& v) { return v == values[0]; });
  return same ? values[0] : join(values, separator);
}

// The first of a class's comma-separated names, without what a file name should not have.
std::string file_label(const Picture& picture) {
  if (picture.label.empty()) return fmt::format("class{}", picture.class_id);
  std::string name = picture.label.substr(0, std::min(picture.label.find(','), kLongestLabel));
  // Not through the middle of a UTF-8 letter.
  while (!name.empty() && name.size() < picture.label.size() &&
         (static_cast<unsigned char>(picture.label[name.size()]) & 0xc0) == 0x80)
    name.pop_back();
  for (char& c : name) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x80 || std::isalnum(byte) != 0 || c == '-' || c == '_' || c == '.';
    if (!plain) c = '-';
  }
  return name;
}

}  // namespace

std::string as_utf8(const std::string& text) {
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

PngText png_text(const RequestInfo& info, const std::vector<Picture>& pictures) {
  PngText text{{"Software", std::string("raedit ") + kVersion}, {"Model", info.model}};
  const std::string labels = each(pictures, "; ", [](const Picture& p) { return p.label; });
  if (!labels.empty()) text.emplace_back("Label", labels);
  text.emplace_back("Class", each(pictures, ", ", [](const Picture& p) { return fmt::to_string(p.class_id); }));
  if (info.latents.empty())
    text.emplace_back("Seed", each(pictures, ", ", [](const Picture& p) { return fmt::to_string(p.seed); }));
  else
    text.emplace_back("Latents", info.latents);
  if (info.rng != "torch-cpu") text.emplace_back("RNG", info.rng);
  text.emplace_back("Steps", fmt::to_string(info.steps));
  text.emplace_back("Guidance", fmt::to_string(info.guidance));
  text.emplace_back("Guidance interval", fmt::format("{} to {}", info.guidance_start, info.guidance_end));
  if (info.encoder_reuse != "1") text.emplace_back("Encoder reuse", info.encoder_reuse);
  text.emplace_back("DType", info.dtype);
  return text;
}

std::map<std::string, std::string> file_metadata(const RequestInfo& info, const std::vector<Picture>& pictures) {
  std::map<std::string, std::string> metadata{{"format", "pt"}};
  for (auto [key, value] : png_text(info, pictures)) {
    for (char& c : key) c = c == ' ' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    metadata[key] = value;
  }
  return metadata;
}

std::string picture_file_name(const RequestInfo& info, const Picture& picture, size_t index, size_t count) {
  const size_t digits = std::max<size_t>(3, fmt::to_string(count - 1).size());
  const std::string seed = info.latents.empty() ? fmt::format("_seed{}", picture.seed) : "";
  return fmt::format("{:0{}}_{}{}.png", index, digits, file_label(picture), seed);
}

}  // namespace raedit::cli
