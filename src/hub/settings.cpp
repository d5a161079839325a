// Environment variables by huggingface_hub's documentation ("Environment variables"); an empty one counts as not set.
#include "hub/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <initializer_list>
#include <thread>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"

namespace raedit::hub {
namespace {

constexpr auto kTellEvery = std::chrono::milliseconds(100);

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string first_of(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (std::string value = environment(name); !value.empty()) return value;
  return "";
}

bool is_true(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

std::string home() {
  const std::string folder = environment("HOME");
  RAEDIT_CHECK(!folder.empty(), {.code = ErrorCode::not_found,
                                 .what = "there is no home folder to keep downloaded models in",
                                 .where = "HOME",
                                 .hint = "set HF_HOME or HF_HUB_CACHE to a folder"});
  return folder;
}

std::string expand(const std::string& path) {
  return path == "~" || path.starts_with("~/") ? home() + path.substr(1) : path;
}

std::string hf_home() {
  if (const std::string folder = environment("HF_HOME"); !folder.empty()) return expand(folder);
  const std::string caches = environment("XDG_CACHE_HOME");
  return expand(caches.empty() ? home() + "/.cache" : caches) + "/huggingface";
}

std::string cache_folder(const HubOptions& options) {
  if (!options.cache_dir.empty()) return options.cache_dir;
  const std::string folder = first_of({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"});
  return folder.empty() ? hf_home() + "/hub" : expand(folder);
}

std::string endpoint_of(const HubOptions& options) {
  std::string endpoint = options.endpoint.empty() ? environment("HF_ENDPOINT") : options.endpoint;
  if (endpoint.empty()) endpoint = "https://huggingface.co";
  while (endpoint.ends_with('/')) endpoint.pop_back();
  const bool is_web = endpoint.starts_with("https://") || endpoint.starts_with("http://");
  const bool is_plain = endpoint.find_first_of("@?# \t\r\n") == std::string::npos;
  // Not shown when there may be a password in it.
  RAEDIT_CHECK(is_web && is_plain, {.code = ErrorCode::invalid_argument,
                                    .what = "the hub's address cannot be used",
                                    .where = "HF_ENDPOINT",
                                    .found = is_plain ? endpoint : "",
                                    .expected = "https://host or http://host:port, without user, '?' and '#'"});
  return endpoint;
}

std::string trimmed(std::string text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && is_space(text.back())) text.pop_back();
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), is_space));
  return text;
}

std::string token_from_file() {
  const std::string named = environment("HF_TOKEN_PATH");
  try {
    return read_file(named.empty() ? hf_home() + "/token" : expand(named), size_t{1} << 16);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::not_found) return "";  // nobody has logged in, or there is no home
    throw;
  }
}

std::string token_of(const HubOptions& options) {
  std::string token = trimmed(options.token);
  if (token.empty() && !is_true(environment("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) {
    token = trimmed(first_of({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}));
    if (token.empty()) token = trimmed(token_from_file());
  }
  const bool can_be_sent = std::all_of(token.begin(), token.end(), [](char c) { return c > ' ' && c < 0x7f; });
  RAEDIT_CHECK(can_be_sent, {.code = ErrorCode::invalid_argument,
                             .what = "the token has characters that a token cannot have",
                             .where = "HF_TOKEN",
                             .hint = "copy it again; it is one word, hf_..."});
  return token;
}

long stall_seconds() {
  const std::string text = environment("HF_HUB_DOWNLOAD_TIMEOUT");
  if (text.empty()) return Settings{}.stall_seconds;
  const std::optional<long> seconds = number_of<long>(text);
  RAEDIT_CHECK(seconds && *seconds >= 1 && *seconds <= 86400, {.code = ErrorCode::invalid_argument,
                                                               .what = "the timeout cannot be used",
                                                               .where = "HF_HUB_DOWNLOAD_TIMEOUT",
                                                               .found = text,
                                                               .expected = "whole seconds, 1 to 86400"});
  return *seconds;
}

}  // namespace

Settings settings_from(const HubOptions& options) {
  RAEDIT_CHECK(options.retries >= 0, {.code = ErrorCode::invalid_argument,
                                      .what = "retries is negative",
                                      .found = fmt::to_string(options.retries),
                                      .expected = "0 or more"});
  RAEDIT_CHECK(std::isfinite(options.first_pause_seconds) && options.first_pause_seconds >= 0,
               {.code = ErrorCode::invalid_argument,
                .what = "first_pause_seconds is not a duration",
                .found = fmt::to_string(options.first_pause_seconds),
                .expected = "0 or more seconds"});
  Settings settings;
  settings.cache_dir = cache_folder(options);
  settings.offline = options.offline || is_true(first_of({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}));
  settings.retries = options.retries;
  settings.first_pause_seconds = options.first_pause_seconds;
  if (settings.offline) return settings;  // the rest may be wrong then
  settings.endpoint = endpoint_of(options);
  settings.token = token_of(options);
  settings.stall_seconds = stall_seconds();
  settings.ca_bundle = first_of({"CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"});
  return settings;
}

void ProgressMeter::begin(std::string file, uint64_t done, uint64_t total) {
  state_ = {.file = std::move(file), .done = done, .total = total};
  tell();
}

void ProgressMeter::end() {
  if (state_.total != 0) state_.done = state_.total;
  tell();
}

void ProgressMeter::poll() {
  if (std::chrono::steady_clock::now() - told_ >= kTellEvery) tell();
}

void ProgressMeter::tell() {
  told_ = std::chrono::steady_clock::now();
  RAEDIT_CHECK(!callback_ || callback_(state_), {.code = ErrorCode::cancelled,
                                                 .what = "the download was cancelled",
                                                 .where = state_.file,
                                                 .hint = "run it again to go on where it stopped"});
}

void ProgressMeter::sleep(double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  for (;;) {
    poll();
    const std::chrono::duration<double> left = end - std::chrono::steady_clock::now();
    if (left.count() <= 0) return;
    std::this_thread::sleep_for(std::min<std::chrono::duration<double>>(left, kTellEvery / 2));
  }
}

}  // namespace raedit::hub
