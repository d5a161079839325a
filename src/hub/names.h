// What may be a name: of a repository, a revision, a file in it, a blob. Nothing that leaves its folder gets through,
// whoever sent it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace raedit::hub {

struct ModelName {
  std::string repo;               // org/name, or name
  std::string revision = "main";  // a branch, a tag or a commit

  std::string text() const { return repo + "@" + revision; }
};

// nullopt for what is a path (it begins with '.', '/' or '~') or breaks the hub's rules for names. Looks at the text
// alone.
std::optional<ModelName> parse_model_name(std::string_view text);

bool is_commit(std::string_view text);            // 40 hex digits, lower-case
bool is_hex(std::string_view text);               // lower-case, at least one
bool is_safe_path(std::string_view path);         // relative, '/' between parts, no part empty, "." or ".."
bool is_safe_etag(std::string_view etag);         // fit to be the name of a file in blobs/
std::string clean_etag(std::string_view header);  // W/"x" and "x" are x

}  // namespace raedit::hub
