// Downloads that go well: what is asked, what is sent along, and what the cache looks like afterwards.
#include <gtest/gtest.h>

#include <filesystem>
#include <future>

#include "hub/fake_hub.h"
#include "raedit/hub.h"

namespace raedit::test {
namespace {

namespace fs = std::filesystem;

class Download : public HubTest {};

size_t count_gets(const std::vector<Request>& requests, const std::string& part) {
  size_t count = 0;
  for (const Request& request : requests) count += request.method == "GET" && request.target.find(part) != part.npos;
  return count;
}

TEST_F(Download, LaysTheCacheOutAsHuggingfaceHubDoes) {
  EXPECT_EQ(download_model("org/name", {}, options), snapshot());
  for (const auto& [path, content] : all_files()) EXPECT_EQ(slurp(snapshot() + "/" + path), content) << path;
  expect_nothing_half_written();
  EXPECT_EQ(slurp(storage() + "/refs/main"), hub.commit);
  EXPECT_EQ(fs::read_symlink(snapshot() + "/model.pt"), "../../blobs/" + sha256(hub.large["model.pt"]));
  EXPECT_EQ(fs::read_symlink(snapshot() + "/vae/config.json"), "../../../blobs/" + git_sha1("{}"));
  EXPECT_EQ(fs::read_symlink(snapshot() + "/deep/er/down/labels with space.json"),
            "../../../../../blobs/" + git_sha1("[1, 2]"));
  EXPECT_TRUE(fs::exists(cache + "/.locks/models--org--name/" + sha256(hub.large["model.pt"]) + ".lock"));
  for (const auto& entry : fs::directory_iterator(storage() + "/blobs"))
    EXPECT_EQ(entry.path().filename().string().find('.'), std::string::npos) << entry.path();
}

TEST_F(Download, AsksForNothingTwice) {
  download_model("org/name", {}, options);
  const size_t asked = hub.hub_requests().size();
  const size_t sent = hub.cdn_bytes_sent();
  download_model("org/name", {}, options);
  EXPECT_EQ(hub.hub_requests().size(), asked + 1) << "the list alone: the branch may have moved";
  EXPECT_EQ(hub.cdn_bytes_sent(), sent);

  // A new commit with the same content under another name: the blobs are there already.
  hub.commit = "ffff456789abcdef0123456789abcdef01234567";
  hub.large["renamed.pt"] = hub.large["model.pt"];
  hub.files["new.json"] = "[]";
  download_model("org/name", {}, options);
  EXPECT_EQ(hub.cdn_bytes_sent(), sent);
  EXPECT_EQ(slurp(snapshot() + "/renamed.pt"), hub.large["model.pt"]);
  EXPECT_EQ(slurp(storage() + "/refs/main"), hub.commit);
}

TEST_F(Download, TakesWhatMatches) {
  download_model("org/name", {"vae/", "*index.json"}, options);
  std::vector<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(snapshot()))
    if (!entry.is_directory()) found.push_back(entry.path().lexically_relative(snapshot()).string());
  std::sort(found.begin(), found.end());
  EXPECT_EQ(found, (std::vector<std::string>{"model_index.json", "vae/config.json", "vae/weights.safetensors"}));
  download_model("org/name", {"*.json"}, options);
  EXPECT_TRUE(fs::exists(snapshot() + "/deep/er/down/labels with space.json")) << "'*' takes '/' too";
  expect_error(ErrorCode::not_found, {"org/name@main", "*.gguf", "6 other files"},
               [&] { download_model("org/name", {"*.gguf"}, options); });
}

TEST_F(Download, SendsTheTokenToTheHubAlone) {
  hub.token = options.token = "hf_secret";
  download_model("org/name", {}, options);
  for (const Request& request : hub.hub_requests()) {
    EXPECT_EQ(request.header("authorization"), "Bearer hf_secret") << request.target;
    EXPECT_EQ(request.header("accept-encoding"), "identity");
  }
  ASSERT_FALSE(hub.cdn_requests().empty());  // whose handler looks for the header
  expect_nothing_half_written();
}

TEST_F(Download, FindsTokenEndpointAndCacheInTheEnvironment) {
  hub.token = "hf_of_file";
  fs::create_directories(scratch / "home");
  spit(scratch / "home/token", " hf_of_file\r\n");
  environment.set("HF_HOME", scratch / "home");
  environment.set("HF_ENDPOINT", hub.url() + "//");
  options.cache_dir = options.endpoint = "";
  cache = scratch / "home/hub";
  EXPECT_EQ(download_model("org/name", {"*.json"}, options), snapshot());

  hub.token = "hf_of_variable";
  environment.set("HF_TOKEN", "hf_of_variable");
  environment.set("HF_HUB_CACHE", scratch / "elsewhere");
  cache = scratch / "elsewhere";
  EXPECT_EQ(download_model("org/name", {"*.json"}, options), snapshot());

  spit(scratch / "other_token", "hf_of_other_file");
  hub.token = "hf_of_other_file";
  environment.set("HF_TOKEN", "");
  environment.set("HF_TOKEN_PATH", scratch / "other_token");
  environment.set("HF_HUB_CACHE", "~/tilde");
  cache = scratch / "tilde";
  EXPECT_EQ(download_model("org/name", {"*.json"}, options), snapshot());
  environment.set("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
  expect_error(ErrorCode::io, {"needs a token", "HF_TOKEN", "HTTP 401"},
               [&] { download_model("org/name", {"*.json"}, options); });
}

TEST_F(Download, FollowsARenamedRepository) {
  // As the hub does: relative redirects of both interfaces to the new name.
  hub.repo = "new-org/new-name";
  hub.token = options.token = "hf_secret";
  hub.on_hub = [&](const Request& request) -> std::optional<Reply> {
    const size_t at = request.target.find("org/name");
    if (at == std::string::npos || request.target.find("new-org") != std::string::npos) return std::nullopt;
    return Reply{.status = 307,
                 .headers = {{"Location", std::string(request.target).replace(at, 8, hub.repo)}},
                 .body = "Temporary Redirect"};
  };
  EXPECT_EQ(download_model("org/name", {}, options), snapshot());
  expect_nothing_half_written();
  EXPECT_EQ(slurp(snapshot() + "/model.pt"), hub.large["model.pt"]);
}

TEST_F(Download, FollowsAMirrorToTheHubWithoutTheToken) {
  const HttpServer mirror([&](const Request& request) {
    EXPECT_EQ(request.header("authorization"), "Bearer hf_of_the_mirror");
    return Reply{.status = 308, .headers = {{"Location", hub.url() + request.target}}};
  });
  options.endpoint = mirror.url();
  options.token = "hf_of_the_mirror";
  EXPECT_EQ(download_model("org/name", {}, options), snapshot());
  for (const Request& request : hub.hub_requests()) EXPECT_EQ(request.header("authorization"), "") << request.target;
  expect_nothing_half_written();
}

TEST_F(Download, GoesThroughAProxy) {
  const std::string address = "http://hub.invalid:8080";
  const HttpServer proxy([&](Request request) {
    EXPECT_TRUE(request.target.starts_with(address + "/")) << request.target;
    request.target.erase(0, address.size());
    return hub.answer_hub(request);
  });
  environment.set("http_proxy", proxy.url());
  options.endpoint = address;
  EXPECT_EQ(download_model("org/name", {"*.json"}, options), snapshot());
  EXPECT_EQ(proxy.requests().size(), 1 + 2 * 3u);
  EXPECT_TRUE(hub.hub_requests().empty());
  expect_nothing_half_written();
}

TEST_F(Download, PinsARevision) {
  EXPECT_EQ(download_model("org/name@" + hub.commit, {"*.json"}, options), snapshot());
  EXPECT_FALSE(fs::exists(storage() + "/refs")) << "a commit needs no ref";
  hub.on_hub = [&](const Request& request) -> std::optional<Reply> {
    if (request.path() == "/api/models/org/name/revision/refs%2Fpr%2F1") return hub.listing();
    return std::nullopt;
  };
  EXPECT_EQ(download_model("org/name@refs/pr/1", {"*.json"}, options), snapshot());
  EXPECT_EQ(slurp(storage() + "/refs/refs/pr/1"), hub.commit);
}

TEST_F(Download, TellsHowFarItIs) {
  std::map<std::string, HubProgress> last;
  uint64_t calls = 0;
  options.progress = [&](const HubProgress& progress) {
    ++calls;
    EXPECT_LE(progress.done, progress.total) << progress.file;
    last[progress.file] = progress;
    return true;
  };
  download_model("org/name", {}, options);
  for (const auto& [path, content] : all_files()) {
    EXPECT_EQ(last[path].done, content.size()) << path;
    EXPECT_EQ(last[path].total, content.size()) << path;
  }
  EXPECT_LT(calls, 60u);
}

TEST_F(Download, TwoAtOnceDownloadEverythingOnce) {
  std::vector<std::future<std::string>> runs;
  for (int i = 0; i < 4; ++i)
    runs.push_back(std::async(std::launch::async, [&] { return download_model("org/name", {}, options); }));
  for (auto& run : runs) EXPECT_EQ(run.get(), snapshot());
  expect_nothing_half_written();
  for (const auto& [path, content] : hub.large) EXPECT_EQ(count_gets(hub.cdn_requests(), path), 1u) << path;
  EXPECT_EQ(hub.cdn_bytes_sent(), 300'007u + 70'001u);
}

TEST_F(Download, UsesABlobThatIsThereAndReplacesOneOfTheWrongSize) {
  fs::create_directories(storage() + "/blobs");
  spit(storage() + "/blobs/" + sha256(hub.large["model.pt"]), hub.large["model.pt"]);
  spit(storage() + "/blobs/" + sha256(hub.large["vae/weights.safetensors"]), "half");
  download_model("org/name", {}, options);
  EXPECT_EQ(count_gets(hub.cdn_requests(), "model.pt"), 0u);
  expect_nothing_half_written();
  // A link whose blob is gone is downloaded again.
  fs::remove(storage() + "/blobs/" + sha256(hub.large["model.pt"]));
  download_model("org/name", {}, options);
  EXPECT_EQ(slurp(snapshot() + "/model.pt"), hub.large["model.pt"]);
  EXPECT_EQ(count_gets(hub.cdn_requests(), "model.pt"), 1u);
}

TEST_F(Download, TakesFilesWithoutASizeOrAHash) {
  const std::string body = random_bytes(5000, 7);
  hub.on_hub = [&](const Request& request) -> std::optional<Reply> {
    if (!request.path().ends_with("/model_index.json")) return std::nullopt;
    return Reply{.headers = {{"ETag", "W/\"not-a-hash\""}}, .body = body, .has_length = false};
  };
  download_model("org/name", {"model_index.json"}, options);
  EXPECT_EQ(slurp(snapshot() + "/model_index.json"), body);
  EXPECT_EQ(fs::read_symlink(snapshot() + "/model_index.json"), "../../blobs/not-a-hash");
}

}  // namespace
}  // namespace raedit::test
