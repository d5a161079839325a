// Repository: a folder and a model of the hub look the same to whoever reads files from them.
#include "hub/repository.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "hub/fake_hub.h"

namespace raedit::test {
namespace {

namespace fs = std::filesystem;
using raedit::hub::Repository;

class Places : public HubTest {};

TEST_F(Places, AFolder) {
  fs::create_directories(scratch / "model/vae");
  spit(scratch / "model/vae/config.json", "{}");
  spit(scratch / "model/a.yaml", "x: 1");
  const auto place = Repository::open(scratch / "model", options);
  EXPECT_TRUE(place.is_local());
  EXPECT_EQ(place.name(), scratch / "model");
  EXPECT_EQ(place.commit(), "");
  EXPECT_EQ(place.files(), (std::vector<std::string>{"a.yaml", "vae/config.json"}));
  EXPECT_TRUE(place.exists("vae/config.json"));
  EXPECT_FALSE(place.exists("vae"));
  EXPECT_EQ(place.fetch("vae/config.json"), scratch / "model/vae/config.json");
  expect_error(ErrorCode::not_found, {"no such file", "b.yaml", "did you mean 'a.yaml'"},
               [&] { place.fetch("b.yaml"); });
  expect_error(ErrorCode::not_found, {"is a folder"}, [&] { place.fetch("vae"); });
  EXPECT_TRUE(hub.hub_requests().empty());
}

TEST_F(Places, AModelOfTheHub) {
  const auto place = Repository::open("org/name", options);
  EXPECT_FALSE(place.is_local());
  EXPECT_EQ(place.name(), "org/name");
  EXPECT_EQ(place.commit(), hub.commit);
  std::vector<std::string> names;
  for (const auto& [path, content] : all_files()) names.push_back(path);
  EXPECT_EQ(place.files(), names);
  EXPECT_TRUE(place.exists("model.pt"));
  EXPECT_FALSE(place.exists("model.bin"));
  EXPECT_EQ(hub.hub_requests().size(), 1u) << "the list, once";
  EXPECT_TRUE(hub.cdn_requests().empty());

  EXPECT_EQ(place.fetch("model.pt"), snapshot() + "/model.pt");
  EXPECT_EQ(place.fetch("model.pt"), snapshot() + "/model.pt");
  EXPECT_EQ(hub.cdn_requests().size(), 1u);
  EXPECT_EQ(slurp(storage() + "/refs/main"), hub.commit);
  expect_error(ErrorCode::not_found, {"no such file", "org/name@main/model.pd", "did you mean 'model.pt'"},
               [&] { place.fetch("model.pd"); });
  expect_next_run_succeeds();
}

TEST_F(Places, AModelInTheCacheStaysAtItsCommit) {
  download_model("org/name", {"model.pt"}, options);
  const std::string commit = hub.commit;
  const std::string old_snapshot = snapshot();
  const size_t asked = hub.hub_requests().size();
  const auto place = Repository::open("org/name", options);
  EXPECT_EQ(place.fetch("model.pt"), old_snapshot + "/model.pt");
  EXPECT_TRUE(place.exists("model.pt"));
  EXPECT_EQ(hub.hub_requests().size(), asked) << "no need to ask";
  EXPECT_EQ(slurp(place.fetch("vae/config.json")), "{}") << "of the same commit";
  EXPECT_EQ(hub.hub_requests()[asked].path(), "/api/models/org/name/revision/" + commit);
  // Where the hub cannot be asked, "no" would be a guess.
  hub.on_hub = [](const Request&) { return Reply{.status = 503}; };
  const auto again = Repository::open("org/name", options);
  EXPECT_TRUE(again.exists("model.pt"));
  expect_error(ErrorCode::io, {"HTTP 503"}, [&] { again.exists("preprocessor_config.json"); });
  options.offline = true;
  EXPECT_FALSE(Repository::open("org/name", options).exists("preprocessor_config.json"));
  expect_error(ErrorCode::not_found, {"not downloaded before", "did you mean 'model.pt'"},
               [&] { Repository::open("org/name", options).fetch("model.pd"); });
  expect_error(ErrorCode::not_found, {"not downloaded before", "without --offline"},
               [&] { Repository::open("org/name", options).fetch("preprocessor_config.json"); });
}

TEST_F(Places, PathsStayInside) {
  fs::create_directories(scratch / "model");
  spit(scratch / "secret", "x");
  for (const auto& place : {Repository::open(scratch / "model", options), Repository::open("org/name", options)})
    for (const char* path : {"../secret", "/etc/passwd", "", ".", "a/../../secret", "a//b"}) {
      expect_error(ErrorCode::invalid_argument, {"'..'"}, [&] { place.fetch(path); });
      expect_error(ErrorCode::invalid_argument, {"'..'"}, [&] { place.exists(path); });
    }
}

TEST_F(Places, WhatIsNeitherSaysWhatWasTried) {
  spit(scratch / "file", "x");
  expect_error(ErrorCode::invalid_argument, {"not a folder", scratch / "file"},
               [&] { Repository::open(scratch / "file", options); });
  for (const std::string& name :
       {scratch / "none", std::string("./org/name"), std::string("no-such-folder"), std::string("")})
    expect_error(ErrorCode::not_found, {"no such folder", "org/name@revision"},
                 [&] { Repository::open(name, options); });
  EXPECT_TRUE(hub.hub_requests().empty());
  expect_error(ErrorCode::not_found, {"no such model", "org/other@main"},
               [&] { Repository::open("org/other", options); });
}

}  // namespace
}  // namespace raedit::test
