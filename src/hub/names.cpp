#include "hub/names.h"

#include <algorithm>

namespace raedit::hub {
namespace {

constexpr size_t kMaxNameLength = 96;
constexpr size_t kMaxPathLength = 1024;
constexpr size_t kMaxEtagLength = 128;

// Not <cctype>: that one asks the locale.
bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool all_of_set(std::string_view text, std::string_view more) {
  return std::all_of(text.begin(), text.end(),
                     [&](char c) { return is_word(c) || more.find(c) != std::string_view::npos; });
}

bool is_name_part(std::string_view part) {
  return !part.empty() && part.size() <= kMaxNameLength && all_of_set(part, "-.") && is_word(part.front()) &&
         is_word(part.back());
}

bool is_repo(std::string_view repo) {
  if (repo.find("--") != repo.npos || repo.find("..") != repo.npos || repo.ends_with(".git")) return false;
  const size_t slash = repo.find('/');
  if (slash == repo.npos) return is_name_part(repo);
  return is_name_part(repo.substr(0, slash)) && is_name_part(repo.substr(slash + 1));
}

bool is_revision(std::string_view revision) {
  return is_safe_path(revision) && all_of_set(revision, "-./+@") && revision.front() != '-' &&
         revision.find("..") == revision.npos;
}

}  // namespace

std::optional<ModelName> parse_model_name(std::string_view text) {
  const size_t at = text.find('@');
  ModelName name;
  name.repo = std::string(text.substr(0, at));
  if (at != text.npos) name.revision = std::string(text.substr(at + 1));
  if (!is_repo(name.repo) || !is_revision(name.revision)) return std::nullopt;
  return name;
}

bool is_hex(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool is_commit(std::string_view text) {
  return text.size() == 40 && is_hex(text);
}

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.size() > kMaxPathLength) return false;
  // A backslash is a separator elsewhere, and control characters are for those who want to be misread.
  const auto is_bad = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\'; };
  if (std::any_of(path.begin(), path.end(), is_bad)) return false;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

bool is_safe_etag(std::string_view etag) {
  // Without a dot no etag is "..", nor the name of another's .incomplete part or .lock.
  return !etag.empty() && etag.size() <= kMaxEtagLength && all_of_set(etag, "-+=:,~");
}

std::string clean_etag(std::string_view header) {
  if (header.starts_with("W/")) header.remove_prefix(2);
  if (header.starts_with('"')) header.remove_prefix(1);
  if (header.ends_with('"')) header.remove_suffix(1);
  return std::string(header);
}

}  // namespace raedit::hub
