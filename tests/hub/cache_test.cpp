// What is in the cache is found without a network, whoever put it there.
#include <gtest/gtest.h>

#include <filesystem>

#include "hub/fake_hub.h"
#include "hub/repository.h"
#include "raedit/hub.h"

namespace raedit::test {
namespace {

namespace fs = std::filesystem;

class Cache : public HubTest {
 protected:
  Cache() { options.offline = true; }

  // As huggingface_hub 2.4 leaves it behind after snapshot_download and a request for a file that does not exist.
  void write_as_huggingface_hub() const {
    for (const char* folder : {"/blobs", "/refs/refs/pr"}) fs::create_directories(storage() + folder);
    fs::create_directories(snapshot() + "/vae");
    fs::create_directories(storage() + "/.no_exist/" + hub.commit);
    spit(cache + "/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
    spit(storage() + "/refs/main", hub.commit);
    spit(storage() + "/refs/refs/pr/1", hub.commit);
    spit(storage() + "/.no_exist/" + hub.commit + "/model.safetensors", "");
    const std::string weights = hub.large.at("vae/weights.safetensors");
    spit(storage() + "/blobs/" + sha256(weights), weights);
    spit(storage() + "/blobs/" + git_sha1("{}"), "{}");
    spit(storage() + "/blobs/" + sha256("half") + ".1234abcd.incomplete", "ha");
    fs::create_symlink("../../../blobs/" + sha256(weights), snapshot() + "/vae/weights.safetensors");
    fs::create_symlink("../../../blobs/" + git_sha1("{}"), snapshot() + "/vae/config.json");
    fs::create_symlink("../../blobs/" + sha256("gone"), snapshot() + "/gone.json");
    spit(snapshot() + "/plain.json", "[]");  // where there are no links
  }
};

TEST_F(Cache, OfHuggingfaceHubIsRead) {
  write_as_huggingface_hub();
  for (const char* name : {"org/name", "org/name@main", "org/name@refs/pr/1"})
    EXPECT_EQ(download_model(name, {}, options), snapshot()) << name;
  EXPECT_EQ(download_model("org/name@" + hub.commit, {"vae/*"}, options), snapshot());
  const auto repository = hub::Repository::open("org/name", options);
  EXPECT_EQ(repository.commit(), hub.commit);
  EXPECT_EQ(repository.files(), (std::vector<std::string>{"plain.json", "vae/config.json", "vae/weights.safetensors"}));
  EXPECT_EQ(slurp(repository.fetch("vae/weights.safetensors")), hub.large["vae/weights.safetensors"]);
  EXPECT_EQ(slurp(repository.fetch("plain.json")), "[]");
  EXPECT_FALSE(repository.exists("model.safetensors"));
  EXPECT_FALSE(repository.exists("gone.json"));
  EXPECT_TRUE(hub.hub_requests().empty());
}

TEST_F(Cache, WithoutTheModelSaysWhatToDo) {
  const std::vector<std::string> parts = {"not in the cache", "offline", "org/name@main", cache, "HF_HUB_OFFLINE"};
  expect_error(ErrorCode::not_found, parts, [&] { download_model("org/name", {}, options); });
  expect_error(ErrorCode::not_found, parts, [&] { hub::Repository::open("org/name", options); });
  write_as_huggingface_hub();
  expect_error(ErrorCode::not_found, {"not in the cache"}, [&] { download_model("org/name@v2", {}, options); });
  expect_error(ErrorCode::not_found, {"not in the cache"},
               [&] { download_model("org/name@" + std::string(40, 'b'), {}, options); });
  expect_error(ErrorCode::not_found, {"no such files", "*.pt"}, [&] { download_model("org/name", {"*.pt"}, options); });
  EXPECT_TRUE(hub.hub_requests().empty());
}

TEST_F(Cache, OfflineByTheEnvironment) {
  options.offline = false;
  for (const char* name : {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}) {
    for (const char* value : {"1", "true", "YES", "On"}) {
      Environment here;
      here.set(name, value);
      expect_error(ErrorCode::not_found, {"not in the cache"}, [&] { download_model("org/name", {}, options); });
    }
  }
  EXPECT_TRUE(hub.hub_requests().empty());
  environment.set("HF_HUB_OFFLINE", "0");
  download_model("org/name", {"*.json"}, options);
  EXPECT_FALSE(hub.hub_requests().empty());
}

TEST_F(Cache, IsCompletedByADownload) {
  write_as_huggingface_hub();
  options.offline = false;
  download_model("org/name", {}, options);
  for (const auto& [path, content] : all_files()) EXPECT_EQ(slurp(snapshot() + "/" + path), content) << path;
  EXPECT_EQ(hub.cdn_bytes_sent(), 70'001u) << "the rest was there";
  EXPECT_EQ(slurp(snapshot() + "/plain.json"), "[]");
}

TEST_F(Cache, ThatHasEverythingNeedNotBeWritable) {
  options.offline = false;
  download_model("org/name", {}, options);
  fs::remove_all(storage() + "/refs");
  spit(storage() + "/refs", "in the way of every ref, for root as well");
  EXPECT_EQ(download_model("org/name", {}, options), snapshot());
  EXPECT_EQ(hub::Repository::open("org/name", options).fetch("model.pt"), snapshot() + "/model.pt");
  fs::remove(snapshot() + "/model.pt");
  expect_error(ErrorCode::io, {"/refs"}, [&] { download_model("org/name", {}, options); });
}

TEST_F(Cache, WithABrokenRefIsAsIfItWereEmpty) {
  write_as_huggingface_hub();
  for (const std::string& ref :
       {std::string(""), std::string("../../../x"), hub.commit.substr(1), "f" + hub.commit.substr(1)}) {
    spit(storage() + "/refs/main", ref);
    expect_error(ErrorCode::not_found, {"not in the cache"}, [&] { download_model("org/name", {}, options); });
  }
  spit(storage() + "/refs/main", hub.commit + "\n");
  EXPECT_EQ(download_model("org/name", {}, options), snapshot());
}

}  // namespace
}  // namespace raedit::test
