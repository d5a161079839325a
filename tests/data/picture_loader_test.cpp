#include "data/picture_loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>

#include "core/check.h"
#include "data/data_test_util.h"
#include "data/picture_transform.h"

namespace raedit {
namespace {

using data::Crop;
using data::load_picture;
using data::PictureBatch;
using data::PictureLoader;
using data::PictureLoaderOptions;
using data::PictureRequest;
using data::PictureTransform;
using test::expect_error;

constexpr int64_t kCount = 12;

// Pictures in memory; some of them broken.
class MemorySet : public data::PictureSet {
 public:
  explicit MemorySet(std::set<int64_t> broken = {}) : broken_(std::move(broken)) {
    for (int64_t i = 0; i < kCount; ++i)
      files_.push_back(test::png_bytes(
          test::random_image(9 + static_cast<int>(i % 3), 8 + static_cast<int>(i % 4), static_cast<uint64_t>(i))));
    for (const int64_t i : broken_) files_[static_cast<size_t>(i)].resize(40);
  }
  int64_t size() const override { return kCount; }
  const std::vector<std::string>& classes() const override { return classes_; }
  int64_t class_id(int64_t index) const override { return index * 7 % 5; }
  std::string name(int64_t index) const override { return "mem/" + std::to_string(index) + ".png"; }
  std::string bytes(int64_t index) const override {
    reads_++;
    // Later pictures come first, so that order is not given by chance.
    std::this_thread::sleep_for(std::chrono::microseconds(index % 3 == 0 ? 300 : 20));
    return files_[static_cast<size_t>(index)];
  }
  std::string fingerprint() const override { return ""; }

  int reads() const { return reads_; }

 private:
  std::set<int64_t> broken_;
  std::vector<std::string> files_;
  std::vector<std::string> classes_ = {"a", "b", "c", "d", "e"};
  mutable std::atomic<int> reads_ = 0;
};

constexpr PictureTransform kRandom{.resolution = 6, .crop = Crop::random, .random_flip = true};

// Batches of 5, of 1 and of 4, and so on.
PictureLoader::Plan plan_of(int64_t batches) {
  return [batches](int64_t k) {
    std::vector<PictureRequest> requests;
    if (k < batches)
      for (int64_t i = 0; i < (k % 3 == 0 ? 5 : k % 3 == 1 ? 1 : 4); ++i)
        requests.push_back({.index = (k * 5 + i * 7) % kCount, .seed = static_cast<uint64_t>(k * 100 + i)});
    return requests;
  };
}

struct Seen {
  std::vector<std::string> pixels;
  std::vector<std::vector<int64_t>> class_ids;
  std::vector<std::vector<std::string>> broken;  // behind each batch
  std::string error;

  friend bool operator==(const Seen&, const Seen&) = default;
};

Seen watch(const std::shared_ptr<const data::PictureSet>& set, const PictureLoader::Plan& plan,
           const PictureLoaderOptions& options) {
  Seen seen;
  PictureLoader loader(set, kRandom, plan, options);
  try {
    while (std::optional<PictureBatch> batch = loader.next()) {
      seen.pixels.push_back(test::bytes_of(batch->pixels));
      seen.class_ids.push_back(batch->class_ids);
      seen.broken.push_back(loader.broken());
    }
    EXPECT_FALSE(loader.next().has_value());
  } catch (const Error& error) {
    seen.error = error.what();
    try {
      loader.next();
      ADD_FAILURE() << "an error was forgotten";
    } catch (const Error& again) {
      EXPECT_EQ(seen.error, again.what());
    }
  }
  return seen;
}

const std::vector<PictureLoaderOptions> kWorkers = {
    {.workers = 0}, {.workers = 1, .prefetch = 1}, {.workers = 3}, {.workers = 3, .prefetch = 5}};

TEST(PictureLoader, GivesTheSameBatchesWithAnyNumberOfWorkers) {
  const auto set = std::make_shared<MemorySet>();
  for (const PictureLoaderOptions& options : kWorkers) {
    const Seen found = watch(set, plan_of(8), options);
    EXPECT_EQ(found.error, "");
    ASSERT_EQ(found.pixels.size(), 8u);
    for (int64_t k = 0; k < 8; ++k) {
      std::string pixels;
      std::vector<int64_t> class_ids;
      for (const PictureRequest& request : plan_of(8)(k)) {
        pixels += test::bytes_of(load_picture(*set, request, kRandom));
        class_ids.push_back(set->class_id(request.index));
      }
      EXPECT_EQ(found.pixels[static_cast<size_t>(k)], pixels) << k;
      EXPECT_EQ(found.class_ids[static_cast<size_t>(k)], class_ids) << k;
    }
  }
}

TEST(PictureLoader, WorkersBeginAsTheyAreTold) {
  for (const int workers : {0, 1, 3}) {
    std::mutex mutex;
    std::set<std::thread::id> begun;
    const auto set = std::make_shared<MemorySet>();
    {
      PictureLoaderOptions options{.workers = workers};
      options.worker_begins = [&] {
        const std::lock_guard lock(mutex);
        EXPECT_TRUE(begun.insert(std::this_thread::get_id()).second);
      };
      EXPECT_EQ(watch(set, plan_of(8), options).error, "");
    }
    EXPECT_EQ(begun.size(), static_cast<size_t>(workers));
    EXPECT_FALSE(begun.contains(std::this_thread::get_id()));
  }
}

TEST(PictureLoader, TellsOfTheFirstRequestThatFails) {
  const auto set = std::make_shared<MemorySet>(std::set<int64_t>{1, 3, 8});
  for (const PictureLoaderOptions& options : kWorkers) {
    // Batch 0 asks for 0, 7, 2, 9, 4; batch 1 for 5; batch 2 for 10, 5, 0, 7; batch 3 for 3, 10, 5, 0, 7.
    const Seen found = watch(set, plan_of(8), options);
    EXPECT_EQ(found.pixels.size(), 3u);
    EXPECT_NE(found.error.find("mem/3.png"), std::string::npos) << found.error;
    // Two in one batch: by their order, not by which is read sooner.
    const auto both = [](int64_t) {
      return std::vector<PictureRequest>{{.index = 2}, {.index = 3}, {.index = 8}, {.index = 1}};
    };
    EXPECT_NE(watch(set, both, options).error.find("mem/3.png"), std::string::npos);
    const auto outside = [](int64_t) { return std::vector<PictureRequest>{{.index = kCount}}; };
    PictureLoaderOptions skipping = options;
    skipping.skip_broken = true;
    EXPECT_NE(watch(set, outside, skipping).error.find("no such picture"), std::string::npos);
  }
}

TEST(PictureLoader, SkipsBrokenPicturesInTheSameWayWithAnyNumberOfWorkers) {
  const auto set = std::make_shared<MemorySet>(std::set<int64_t>{0, 3, 4, 11});
  const auto stand_in = [](int64_t index) {
    const std::vector<int64_t> of = {1, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 1};
    return of[static_cast<size_t>(index)];
  };
  for (PictureLoaderOptions options : kWorkers) {
    options.skip_broken = true;
    const Seen found = watch(set, plan_of(20), options);
    EXPECT_EQ(found.error, "");
    ASSERT_EQ(found.pixels.size(), 20u);
    for (int64_t k = 0; k < 20; ++k) {
      std::string pixels;
      std::vector<int64_t> class_ids;
      for (PictureRequest request : plan_of(20)(k)) {
        request.index = stand_in(request.index);
        pixels += test::bytes_of(load_picture(*set, request, kRandom));
        class_ids.push_back(set->class_id(request.index));
      }
      EXPECT_EQ(found.pixels[static_cast<size_t>(k)], pixels) << k;
      EXPECT_EQ(found.class_ids[static_cast<size_t>(k)], class_ids) << k;
    }
    // Told with the batch that asked for them, each once.
    ASSERT_EQ(found.broken[0].size(), 2u);
    EXPECT_TRUE(found.broken[0][0].starts_with("mem/0.png: ")) << found.broken[0][0];
    EXPECT_TRUE(found.broken[0][1].starts_with("mem/4.png: "));
    EXPECT_EQ(found.broken[2].size(), 2u);
    ASSERT_EQ(found.broken[3].size(), 3u);
    EXPECT_TRUE(found.broken[3][2].starts_with("mem/3.png: "));
    EXPECT_EQ(found.broken[19].size(), 4u);
  }
}

TEST(PictureLoader, GivesUpWhenNothingCanBeRead) {
  std::set<int64_t> all;
  for (int64_t i = 0; i < kCount; ++i) all.insert(i);
  for (PictureLoaderOptions options : kWorkers) {
    const auto set = std::make_shared<MemorySet>(all);
    options.skip_broken = true;
    const Seen found = watch(set, plan_of(3), options);
    EXPECT_TRUE(found.pixels.empty());
    EXPECT_NE(found.error.find("no picture of the set can be read"), std::string::npos) << found.error;
    EXPECT_NE(found.error.find("mem/0.png"), std::string::npos) << found.error;
    EXPECT_LE(set->reads(), kCount * std::max(1, options.workers));  // remembered, not read for every request
  }
}

TEST(PictureLoader, PlansOneBatchAtATimeAndNoFurtherThanAsked) {
  const auto set = std::make_shared<MemorySet>();
  for (const PictureLoaderOptions& options : kWorkers) {
    std::atomic<int> inside = 0, calls = 0, taken = 0;
    std::atomic<bool> as_promised = true;
    const int ahead = options.workers == 0 ? 0 : options.prefetch;
    const auto plan = [&](int64_t k) {
      if (inside++ != 0 || k != calls || k > taken + ahead) as_promised = false;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      calls++;
      inside--;
      return plan_of(10)(k);
    };
    PictureLoader loader(set, kRandom, plan, options);
    // Counted beforehand: workers go on as soon as the batch is gone, before next() is back.
    do ++taken;
    while (loader.next());
    EXPECT_EQ(taken, 11);
    EXPECT_TRUE(as_promised);
    EXPECT_EQ(calls, 11);
  }
}

TEST(PictureLoader, PassesOnWhatAPlanThrowsInItsTurn) {
  const auto set = std::make_shared<MemorySet>();
  for (const PictureLoaderOptions& options : kWorkers) {
    const auto plan = [](int64_t k) {
      RAEDIT_CHECK(k < 3, {.code = ErrorCode::invalid_argument, .what = "no plan for batch " + std::to_string(k)});
      return plan_of(10)(k);
    };
    const Seen found = watch(set, plan, options);
    EXPECT_EQ(found.pixels.size(), 3u);
    EXPECT_EQ(found.error, "no plan for batch 3");
  }
}

TEST(PictureLoader, IsCancelled) {
  const auto set = std::make_shared<MemorySet>();
  for (const PictureLoaderOptions& options : kWorkers) {
    const CancelToken cancel;
    PictureLoader loader(set, kRandom, plan_of(100), options, cancel);
    EXPECT_TRUE(loader.next().has_value());
    cancel.cancel();
    expect_error(ErrorCode::cancelled, {"cancelled"}, [&] { loader.next(); });
    expect_error(ErrorCode::cancelled, {"cancelled"}, [&] { loader.next(); });
  }
  // While next() waits for a plan that takes its time.
  const CancelToken cancel;
  std::atomic<bool> asked = false, go_on = false;
  const auto plan = [&](int64_t k) {
    asked = true;
    while (!go_on) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return plan_of(1)(k);
  };
  PictureLoader loader(set, kRandom, plan, {.workers = 1}, cancel);
  std::thread other([&] {
    while (!asked) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    cancel.cancel();
  });
  expect_error(ErrorCode::cancelled, {"cancelled"}, [&] { loader.next(); });
  other.join();
  go_on = true;
}

TEST(PictureLoader, MayGoAwayAtAnyTime) {
  const auto set = std::make_shared<MemorySet>(std::set<int64_t>{3});
  for (int taken = 0; taken < 3; ++taken)
    for (const PictureLoaderOptions& options : kWorkers) {
      PictureLoader loader(set, kRandom, plan_of(1'000'000), options);
      for (int i = 0; i < taken; ++i) EXPECT_TRUE(loader.next().has_value());
      if (taken == 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

TEST(PictureLoader, RefusesOptionsThatMakeNoSense) {
  const auto set = std::make_shared<MemorySet>();
  const auto make = [&](PictureTransform transform, PictureLoaderOptions options) {
    PictureLoader(set, transform, plan_of(1), options);
  };
  expect_error(ErrorCode::invalid_argument, {"resolution", "0"}, [&] { make({.resolution = 0}, {}); });
  expect_error(ErrorCode::invalid_argument, {"-1 workers"}, [&] { make({}, {.workers = -1}); });
  expect_error(ErrorCode::invalid_argument, {"-2 batches"}, [&] { make({}, {.prefetch = -2}); });
  expect_error(ErrorCode::invalid_argument, {"needs a set"}, [&] { PictureLoader(set, {}, {}, {}); });
}

TEST(LoadPicture, CutsAndFlipsFromTheSeedAlone) {
  const MemorySet set;
  const Image image = set.picture(3);
  const auto loaded = [&](const PictureTransform& transform, PictureRequest request) {
    return test::bytes_of(load_picture(set, request, transform));
  };
  const auto expected = [](const Image& square) { return test::bytes_of(to_tensor(square)); };
  std::set<std::string> seen;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const PictureRequest request{.index = 3, .seed = seed};
    Generator generator(seed);
    const Image cut = data::random_crop(data::resize_shorter_side(image, 6), 6, generator);
    const Image flipped = data::random_horizontal_flip(cut, generator);
    EXPECT_EQ(loaded(kRandom, request), expected(flipped));
    EXPECT_EQ(loaded({.resolution = 6}, request), expected(cut));
    EXPECT_EQ(loaded(kRandom, {.index = 3, .seed = seed, .flip = false}), expected(cut));
    EXPECT_EQ(loaded({.resolution = 6}, {.index = 3, .seed = seed, .flip = true}),
              expected(data::horizontal_flip(cut)));
    seen.insert(loaded(kRandom, request));
  }
  EXPECT_GT(seen.size(), 2u);
  const PictureRequest request{.index = 3};
  EXPECT_EQ(loaded({.resolution = 6, .crop = Crop::center}, request),
            expected(data::center_crop(data::resize_shorter_side(image, 6), 6)));
  EXPECT_EQ(loaded({.resolution = 3, .crop = Crop::adm}, request), expected(data::adm_center_crop(image, 3)));
}

TEST(PictureTransform, DescribesAllOfItself) {
  EXPECT_EQ((PictureTransform{.random_flip = true}).describe(), "resize 256 (bicubic), random crop, random flip");
  EXPECT_EQ((PictureTransform{.resolution = 64, .crop = Crop::center}).describe(), "resize 64 (bicubic), center crop");
  EXPECT_NE((PictureTransform{.crop = Crop::adm}).describe().find("ADM center crop 256"), std::string::npos);
  for (const Crop crop : {Crop::random, Crop::center, Crop::adm})
    EXPECT_EQ(data::crop_from_name(data::name_of(crop)), crop);
  expect_error(ErrorCode::invalid_argument, {"'centre'", "center"}, [] { data::crop_from_name("centre"); });
}

}  // namespace
}  // namespace raedit
