// The latent cache: what it holds is what encode() gives, a stopped build goes on, and nothing stale is taken.
#include "train/latent_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "core/json.h"
#include "io/safetensors.h"
#include "train/picture_folder.h"
#include "unit/expect_error.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

using namespace train;
using test::ModelFolder;
using test::PictureFolder;
using test::ScratchFolder;
using test::slurp;
using test::spit;

constexpr int kPictures = 7;

class LatentCacheTest : public ::testing::Test {
 protected:
  LatentCacheTest() {
    transform_.resolution = 64;  // the encoder's are 56
    transform_.crop = data::Crop::center;
    transform_.random_flip = true;
    reload();
  }

  void reload() {
    set_ = data::open_picture_set(pictures_.path());
    key_ = latent_cache_key(model_.path(), *set_, transform_, DType::float32);
  }

  static LatentCacheBuild options() {
    LatentCacheBuild o;
    o.batch_size = 2;
    o.shard_pictures = 3;
    o.loader.workers = 1;
    return o;
  }

  // How many pictures it encoded.
  int64_t build(LatentCacheBuild o = options()) {
    int64_t first = -1, last = 0;
    const auto told = o.progress;
    o.progress = [&](const LatentCacheProgress& p) {
      if (first < 0) first = p.done;
      last = p.done;
      if (!p.note.empty()) notes_.push_back(p.note);
      if (told) told(p);
    };
    const auto count = [&] { return std::max<int64_t>(last - std::max<int64_t>(first, 0), 0); };
    try {
      LatentCache::build(ctx_, folder(), key_, set_, transform_, vae_, o);
    } catch (...) {
      encoded_ = count();
      throw;
    }
    return encoded_ = count();
  }

  int64_t build_until_first_shard() {
    LatentCacheBuild o = options();
    o.progress = [&](const LatentCacheProgress& p) {
      if (p.done >= o.shard_pictures) o.cancel.cancel();
    };
    EXPECT_RAEDIT_ERROR(build(o), ErrorCode::cancelled, "cancelled");
    return encoded_;
  }

  std::string folder() const { return scratch_ / "cache"; }
  std::string shard(int i) const { return folder() + "/latents-0000" + std::to_string(i) + ".safetensors"; }
  LatentCache open() const { return LatentCache::open(folder(), key_); }
  static std::vector<float> read(const LatentCache& cache, int64_t i, bool flipped) {
    std::vector<float> latents(static_cast<size_t>(cache.latent_shape().numel()));
    cache.read(i, flipped, latents.data());
    return latents;
  }
  std::vector<float> encoded(int64_t i, bool flip) {
    const Tensor pixels = data::load_picture(*set_, {.index = i, .seed = 0, .flip = flip}, transform_);
    return vae_.encode(ctx_, pixels.reshape({1, 3, 64, 64})).to_vector<float>();
  }
  void expect_holds_what_encode_gives() {
    const LatentCache cache = open();
    ASSERT_EQ(cache.size(), kPictures);
    EXPECT_EQ(cache.latent_shape(), (Shape{128, 4, 4}));
    for (int64_t i = 0; i < kPictures; ++i) {
      EXPECT_EQ(cache.class_id(i), i < 4 ? 0 : 1) << i;
      for (const bool flip : {false, true}) EXPECT_EQ(read(cache, i, flip), encoded(i, flip)) << i << flip;
    }
    EXPECT_NE(read(cache, 0, false), read(cache, 0, true));
    EXPECT_NE(read(cache, 0, false), read(cache, 1, false));
  }

  ScratchFolder scratch_;
  PictureFolder pictures_{kPictures};
  ModelFolder model_{"autoencoder/dinov2"};
  data::PictureTransform transform_;
  std::shared_ptr<const data::PictureSet> set_;
  LatentCacheKey key_;
  AutoencoderRAE vae_ = AutoencoderRAE::from_pretrained(model_.path());
  Context ctx_;
  std::vector<std::string> notes_;
  int64_t encoded_ = 0;
};

TEST_F(LatentCacheTest, HoldsWhatEncodeGivesBitForBit) {
  EXPECT_FALSE(LatentCache::exists(folder()));
  EXPECT_EQ(build(), kPictures);
  EXPECT_TRUE(LatentCache::exists(folder()));
  expect_holds_what_encode_gives();
  EXPECT_EQ(build(), 0);  // there already
}

TEST_F(LatentCacheTest, WithoutFlipsThereIsOneOfEach) {
  transform_.random_flip = false;
  reload();
  build();
  const LatentCache cache = open();
  EXPECT_FALSE(cache.has_flips());
  EXPECT_EQ(read(cache, 5, false), encoded(5, false));
  EXPECT_RAEDIT_ERROR(read(cache, 5, true), ErrorCode::invalid_argument, "no mirror images");
  EXPECT_RAEDIT_ERROR(read(cache, kPictures, false), ErrorCode::invalid_argument, "no such picture", "0 to 6");
  EXPECT_EQ(SafetensorsFile::open(shard(2)).info("latents").shape, (Shape{1, 1, 128, 4, 4}));
}

TEST_F(LatentCacheTest, LatentsMayBeLists) {
  const ModelFolder tokens("autoencoder/dinov2_tokens");
  vae_ = AutoencoderRAE::from_pretrained(tokens.path());
  build();
  EXPECT_EQ(open().latent_shape(), (Shape{25, 64}));
  EXPECT_EQ(read(open(), 6, true), encoded(6, true));
}

TEST_F(LatentCacheTest, AStoppedBuildGoesOn) {
  EXPECT_EQ(build_until_first_shard(), 3);
  EXPECT_FALSE(LatentCache::exists(folder()));
  EXPECT_RAEDIT_ERROR(open(), ErrorCode::not_found, "not finished", "goes on");
  const std::string first = slurp(shard(0));
  const auto time = std::filesystem::last_write_time(shard(0));
  EXPECT_EQ(build(), kPictures - 3);
  EXPECT_EQ(slurp(shard(0)), first);
  EXPECT_EQ(std::filesystem::last_write_time(shard(0)), time);
  expect_holds_what_encode_gives();
}

TEST_F(LatentCacheTest, RanksShareTheShards) {
  LatentCacheBuild o = options();
  o.ranks = 2;
  EXPECT_EQ(build(o), 4);  // shards 0 and 2
  EXPECT_TRUE(std::filesystem::exists(shard(2)));
  EXPECT_FALSE(std::filesystem::exists(shard(1)));
  o.rank = 1;
  EXPECT_EQ(build(o), 3);
  EXPECT_FALSE(LatentCache::exists(folder()));
  EXPECT_EQ(build(), 0);  // writes the index
  expect_holds_what_encode_gives();
}

TEST_F(LatentCacheTest, TheSameBytesWhateverTheBatchSize) {
  build();
  const std::string first = slurp(shard(1));
  std::filesystem::remove_all(folder());
  LatentCacheBuild o = options();
  o.batch_size = 16;
  o.loader.workers = 0;
  build(o);
  EXPECT_EQ(slurp(shard(1)), first);
}

TEST_F(LatentCacheTest, AStaleOneSaysWhatChanged) {
  build();
  const LatentCacheKey good = key_;
  const auto expect_stale = [&](const std::string& part, const std::function<void(LatentCacheKey&)>& change) {
    LatentCacheKey key = good;
    change(key);
    EXPECT_RAEDIT_ERROR(LatentCache::open(folder(), key), ErrorCode::format, "latents.json",
                        "something else: " + part + " changed", "found " + part, "expected " + part, "delete this one");
  };
  expect_stale("autoencoder", [](auto& k) { k.autoencoder[5] = k.autoencoder[5] == '0' ? '1' : '0'; });
  expect_stale("transform", [](auto& k) { k.transform += ", turned"; });
  expect_stale("pictures", [](auto& k) { k.pictures[0] = k.pictures[0] == '0' ? '1' : '0'; });
  expect_stale("dtype", [](auto& k) { k.dtype = "bfloat16"; });
  expect_stale("count", [](auto& k) { ++k.count; });
  expect_stale("flips", [](auto& k) { k.flips = false; });
  LatentCacheKey key = good;
  key.dtype = "bfloat16";
  key.transform = "none";
  EXPECT_RAEDIT_ERROR(LatentCache::open(folder(), key), ErrorCode::format, "transform, dtype changed",
                      "transform '" + good.transform + "', dtype 'float32'", "transform 'none', dtype 'bfloat16'");
}

TEST_F(LatentCacheTest, TheKeyFollowsWhatLatentsDependOn) {
  const LatentCacheKey before = key_;
  model_.change_config([](Json& json) { json["scaling_factor"] = 2.0; });
  reload();
  EXPECT_NE(key_.autoencoder, before.autoencoder);
  EXPECT_EQ(key_.pictures, before.pictures);
  const std::string config_changed = key_.autoencoder;
  model_.change_weights([](test::Weights& weights) {
    Tensor& mean = weights.at("_latents_mean");
    mean.data<float>()[7] += 1;
  });
  reload();
  EXPECT_NE(key_.autoencoder, config_changed);
  save_png(test::noise_image(40, 50, 1), pictures_.file("b", 50));
  transform_.resolution = 80;
  reload();
  EXPECT_NE(key_.pictures, before.pictures);
  EXPECT_NE(key_.transform, before.transform);
  EXPECT_EQ(key_.count, kPictures + 1);
}

TEST_F(LatentCacheTest, ShardsOfAnotherKeyAreLeftAlone) {
  build_until_first_shard();
  const std::string first = slurp(shard(0));
  transform_.resolution = 72;
  reload();
  EXPECT_RAEDIT_ERROR(build(), ErrorCode::format, shard(0), "transform changed", "another folder");
  EXPECT_EQ(encoded_, 0);
  transform_.resolution = 64;
  reload();
  LatentCacheBuild o = options();
  o.shard_pictures = 2;
  EXPECT_RAEDIT_ERROR(build(o), ErrorCode::format, shard(0), "cut in another way", "found 3 pictures a shard",
                      "expected 2 pictures a shard");
  EXPECT_EQ(slurp(shard(0)), first);
}

TEST_F(LatentCacheTest, DamagedFilesAreErrorsThatNameThem) {
  build();
  const std::string good = slurp(shard(1));
  spit(shard(1), good.substr(0, good.size() - 10));
  EXPECT_RAEDIT_ERROR(open(), ErrorCode::format, shard(1));
  std::filesystem::copy_file(shard(2), shard(1), std::filesystem::copy_options::overwrite_existing);
  EXPECT_RAEDIT_ERROR(open(), ErrorCode::format, shard(1), "damaged", "[1, 2, 128, 4, 4]", "[3, 2, 128, 4, 4]");
  write_safetensors(shard(1), NamedTensors{{"latents", Tensor::zeros({3, 2, 128, 4, 4}, DType::float32)}});
  EXPECT_RAEDIT_ERROR(open(), ErrorCode::format, shard(1), "no shard of a latent cache");
  std::filesystem::remove(shard(1));
  EXPECT_RAEDIT_ERROR(open(), ErrorCode::not_found, shard(1));
  spit(shard(1), good);
  EXPECT_EQ(open().size(), kPictures);
  const std::string index = slurp(folder() + "/latents.json");
  spit(folder() + "/latents.json", index.substr(0, index.size() / 2));
  EXPECT_RAEDIT_ERROR(open(), ErrorCode::format, "latents.json");
  Json json = parse_json(index, "index");
  json["shard_pictures"] = 0;
  spit(folder() + "/latents.json", json.dump());
  EXPECT_RAEDIT_ERROR(open(), ErrorCode::format, "latents.json", "shard_pictures");
}

TEST_F(LatentCacheTest, AnotherPictureStandsInForABrokenOne) {
  const std::string broken = pictures_.file("a", 3);
  spit(broken, slurp(broken).substr(0, 500));
  reload();
  EXPECT_RAEDIT_ERROR(build(), ErrorCode::format, "103.png");
  EXPECT_FALSE(LatentCache::exists(folder()));
  LatentCacheBuild o = options();
  o.loader.skip_broken = true;
  build(o);
  const LatentCache cache = open();
  EXPECT_EQ(cache.class_id(2), 0);
  EXPECT_EQ(cache.class_id(3), 1);  // of the next in the set
  EXPECT_EQ(read(cache, 3, true), read(cache, 4, true));
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("103.png"), std::string::npos) << notes_[0];
  const Json index = parse_json(slurp(folder() + "/latents.json"), "index");
  ASSERT_EQ(index["broken"].size(), 1u);
  EXPECT_NE(index["broken"][0].get<std::string>().find("103.png"), std::string::npos);
}

TEST_F(LatentCacheTest, WhatCannotBeCachedIsRefused) {
  transform_.crop = data::Crop::random;
  EXPECT_RAEDIT_ERROR(build(), ErrorCode::invalid_argument, "random crops");
  transform_.crop = data::Crop::center;
  LatentCacheBuild o = options();
  o.rank = 1;
  EXPECT_RAEDIT_ERROR(build(o), ErrorCode::invalid_argument, "rank 1 of 1");
  key_.dtype = "bfloat16";
  EXPECT_RAEDIT_ERROR(build(), ErrorCode::invalid_argument, "float32", "bfloat16");
  EXPECT_FALSE(std::filesystem::exists(folder()));
}

}  // namespace
}  // namespace raedit
