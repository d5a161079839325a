// A hub with one model, and the CDN that its large files come from, on two ports of this machine; and an environment
// in which nothing else is asked.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "hub/http_server.h"
#include "io/hash.h"
#include "io/io_test_util.h"
#include "raedit/hub.h"

namespace raedit::test {

inline std::string random_bytes(size_t count, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(engine());
  return bytes;
}

inline std::string sha256(const std::string& content) {
  Sha256 digest;
  digest.update(content);
  return digest.hex();
}

inline std::string git_sha1(const std::string& content) {
  GitBlobSha1 digest(content.size());
  digest.update(content);
  return digest.hex();
}

inline std::string url_decode(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      plain += text[i];
      continue;
    }
    plain += static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16));
    i += 2;
  }
  return plain;
}

// Sets variables, or unsets those given as nullptr, and puts everything back at the end.
class Environment {
 public:
  Environment() = default;
  ~Environment() {
    for (auto i = before_.rbegin(); i != before_.rend(); ++i) apply(i->first, i->second);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  void set(const std::string& name, const std::optional<std::string>& value) {
    const char* old = std::getenv(name.c_str());
    before_.emplace_back(name, old == nullptr ? std::nullopt : std::optional<std::string>(old));
    apply(name, value);
  }

 private:
  static void apply(const std::string& name, const std::optional<std::string>& value) {
    if (value)
      ::setenv(name.c_str(), value->c_str(), 1);
    else
      ::unsetenv(name.c_str());
  }
  std::vector<std::pair<std::string, std::optional<std::string>>> before_;
};

class FakeHub {
 public:
  FakeHub()
      : cdn_([this](const Request& request) { return answer_cdn(request); }),
        hub_([this](const Request& request) { return answer_hub(request); }) {}

  std::string repo = "org/name";
  std::string commit = "0123456789abcdef0123456789abcdef01234567";
  std::map<std::string, std::string> files;  // small ones, by git's SHA-1
  std::map<std::string, std::string> large;  // from the CDN, by SHA-256
  std::string token;                         // if any, nothing is given without it
  bool has_ranges = true;
  // Asked first; nullopt: as usual.
  std::function<std::optional<Reply>(const Request&)> on_hub, on_cdn;

  std::string url() const { return hub_.url(); }
  std::string cdn_url() const { return cdn_.url(); }
  std::vector<Request> hub_requests() const { return hub_.requests(); }
  std::vector<Request> cdn_requests() const { return cdn_.requests(); }
  size_t cdn_bytes_sent() const { return cdn_.body_bytes_sent(); }
  std::string resolve_path(const std::string& path) const { return "/" + repo + "/resolve/" + commit + "/" + path; }

  static Reply error(int status, const std::string& code, const std::string& message = "") {
    return {.status = status, .headers = {{"X-Error-Code", code}, {"X-Error-Message", message}}, .body = "no"};
  }
  Reply content(const Request& request, const std::string& body,
                std::vector<std::pair<std::string, std::string>> headers) const {
    const std::string range = request.header("range");
    if (range.empty() || !has_ranges) return {.headers = std::move(headers), .body = body};
    const size_t from = std::stoull(range.substr(std::string("bytes=").size()));
    if (from >= body.size()) return {.status = 416, .body = "range"};
    headers.emplace_back("Content-Range", "bytes " + std::to_string(from) + "-" + std::to_string(body.size() - 1) +
                                              "/" + std::to_string(body.size()));
    return {.status = 206, .headers = std::move(headers), .body = body.substr(from)};
  }
  Reply listing() const {
    Json answer = {{"id", repo}, {"sha", commit}, {"siblings", Json::array()}};
    for (const auto* all : {&files, &large})
      for (const auto& [path, body] : *all) answer["siblings"].push_back({{"rfilename", path}});
    return {.headers = {{"Content-Type", "application/json"}}, .body = answer.dump()};
  }

  Reply answer_hub(const Request& request) {
    if (on_hub)
      if (auto reply = on_hub(request)) return *reply;
    if (!token.empty() && request.header("authorization") != "Bearer " + token) return error(401, "");
    const std::string api = "/api/models/" + repo + "/revision/";
    if (request.path() == api + "main" || request.path() == api + commit) return listing();
    if (request.path().starts_with(api)) return error(404, "RevisionNotFound");
    const std::string base = resolve_path("");
    if (!request.path().starts_with(base)) return error(404, "RepoNotFound");
    const std::string path = url_decode(request.path().substr(base.size()));
    if (const auto found = files.find(path); found != files.end())
      return content(request, found->second,
                     {{"ETag", "\"" + git_sha1(found->second) + "\""}, {"X-Repo-Commit", commit}});
    if (const auto found = large.find(path); found != large.end())
      return {.status = 302,
              .headers = {{"Location", cdn_.url() + "/" + path + "?Signature=secret"},
                          {"ETag", "\"of-the-redirect\""},
                          {"X-Linked-Etag", "\"" + sha256(found->second) + "\""},
                          {"X-Linked-Size", std::to_string(found->second.size())},
                          {"X-Repo-Commit", commit}},
              .body = "Found. Redirecting"};
    return error(404, "EntryNotFound");
  }

 private:
  Reply answer_cdn(const Request& request) {
    EXPECT_EQ(request.header("authorization"), "") << "the token went to another host";
    if (on_cdn)
      if (auto reply = on_cdn(request)) return *reply;
    const auto found = large.find(request.path().substr(1));
    if (found == large.end() || request.target.find("Signature=secret") == std::string::npos) return {.status = 403};
    return content(request, found->second, {{"ETag", "\"md5-of-the-cdn\""}});
  }

  HttpServer cdn_;
  HttpServer hub_;
};

class HubTest : public ::testing::Test {
 protected:
  HubTest() {
    for (const char* name : {"HF_HUB_CACHE",
                             "HUGGINGFACE_HUB_CACHE",
                             "HF_HOME",
                             "XDG_CACHE_HOME",
                             "HF_ENDPOINT",
                             "HF_TOKEN",
                             "HUGGING_FACE_HUB_TOKEN",
                             "HF_TOKEN_PATH",
                             "HF_HUB_OFFLINE",
                             "TRANSFORMERS_OFFLINE",
                             "HF_HUB_DISABLE_IMPLICIT_TOKEN",
                             "HF_HUB_DOWNLOAD_TIMEOUT",
                             "CURL_CA_BUNDLE",
                             "REQUESTS_CA_BUNDLE",
                             "SSL_CERT_FILE",
                             "http_proxy",
                             "https_proxy",
                             "all_proxy",
                             "HTTPS_PROXY",
                             "ALL_PROXY"})
      environment.set(name, std::nullopt);
    environment.set("HOME", scratch.path());
    environment.set("no_proxy", "127.0.0.1");
    options.cache_dir = cache;
    options.endpoint = hub.url();
    options.first_pause_seconds = 0.01;
    hub.files = {{"model_index.json", "{\"_class_name\": 1}"},
                 {"vae/config.json", "{}"},
                 {"empty.txt", ""},
                 {"deep/er/down/labels with space.json", "[1, 2]"}};
    hub.large = {{"vae/weights.safetensors", random_bytes(300'007, 1)}, {"model.pt", random_bytes(70'001, 2)}};
  }

  std::map<std::string, std::string> all_files() const {
    std::map<std::string, std::string> all = hub.files;
    all.insert(hub.large.begin(), hub.large.end());
    return all;
  }
  std::string storage() const { return cache + "/models--org--name"; }
  std::string snapshot() const { return storage() + "/snapshots/" + hub.commit; }
  std::string part_of(const std::string& path) const {
    return storage() + "/blobs/" + sha256(hub.large.at(path)) + ".incomplete";
  }

  // Nothing that has a final name is anything but whole and right.
  void expect_nothing_half_written() const {
    const std::map<std::string, std::string> all = all_files();
    namespace fs = std::filesystem;
    if (!fs::exists(cache)) return;
    for (const auto& entry : fs::recursive_directory_iterator(cache)) {
      const std::string path = entry.path().string();
      if (entry.is_directory() || path.ends_with(".incomplete") || path.ends_with(".lock")) continue;
      const std::string name = entry.path().filename().string();
      if (path.starts_with(snapshot() + "/")) {
        const auto known = all.find(path.substr(snapshot().size() + 1));
        ASSERT_NE(known, all.end()) << path;
        EXPECT_EQ(slurp(path), known->second) << path;
      } else if (path.find("/blobs/") != path.npos) {
        EXPECT_TRUE(name == sha256(slurp(path)) || name == git_sha1(slurp(path))) << path;
      } else {
        EXPECT_EQ(path, storage() + "/refs/main");
        EXPECT_EQ(slurp(path), hub.commit);
      }
    }
  }

  // The next run: whatever happened before, it gets everything.
  void expect_next_run_succeeds() {
    expect_nothing_half_written();
    hub.on_hub = nullptr;
    hub.on_cdn = nullptr;
    HubOptions again = options;
    again.progress = nullptr;
    EXPECT_EQ(download_model("org/name", {}, again), snapshot());
    for (const auto& [path, content] : all_files()) EXPECT_EQ(slurp(snapshot() + "/" + path), content) << path;
    expect_nothing_half_written();
  }

  ScratchFolder scratch;
  Environment environment;
  std::string cache = scratch / "cache";
  FakeHub hub;
  HubOptions options;
};

}  // namespace raedit::test
