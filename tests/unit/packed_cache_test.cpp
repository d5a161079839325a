// The folder of packed weights: what is found in it gives the bits that packing gives, and only what belongs to the
// checkpoint, whole and undamaged, is used.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <tuple>

#include "io/crc32.h"
#include "io/torch_write.h"
#include "io/weight_folder.h"
#include "models/internals.h"
#include "raedit/calibration.h"
#include "raedit/rae_dit_pipeline.h"
#include "unit/expect_error.h"
#include "unit/model_folder.h"

namespace raedit {
namespace {

namespace fs = std::filesystem;
using test::ModelFolder;
using test::ScratchFolder;
using test::slurp;
using test::spit;

// A file of packed weights, taken apart and put together again with right sums.
struct Packed {
  Json header;
  std::string data;

  explicit Packed(const std::string& path) {
    const std::string content = slurp(path);
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, content.data() + 8, 8);
    header = Json::parse(content.substr(24, header_bytes));
    data = content.substr((24 + header_bytes + 4095) / 4096 * 4096);
  }

  void write(const std::string& path) {
    constexpr size_t kPiece = size_t{4} << 20;
    header["crc32"] = Json::array();
    for (size_t at = 0; at < data.size(); at += kPiece)
      header["crc32"].push_back(crc32(0, data.data() + at, std::min(kPiece, data.size() - at)));
    const std::string text = header.dump();
    const uint64_t bytes = text.size();
    const uint32_t crc = crc32(0, text.data(), text.size());
    std::string content("RAEPACK1");
    content.append(reinterpret_cast<const char*>(&bytes), 8).append(reinterpret_cast<const char*>(&crc), 4);
    content.append(4, '\0').append(text);
    content.resize((content.size() + 4095) / 4096 * 4096);
    spit(path, content + data);
  }

  int64_t entries_of(const std::string& form) const {
    return std::count_if(header["entries"].begin(), header["entries"].end(),
                         [&](const Json& entry) { return entry[0].get<std::string>().starts_with(form + " "); });
  }
};

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> paths;
  for (const auto& entry : fs::directory_iterator(folder)) paths.push_back(entry.path().string());
  return paths;
}

// What the model computes of some noise.
std::vector<float> run_model(const RAEDiT2DModel& model) {
  Context ctx;
  const auto& c = model.config();
  return model
      .forward(ctx, test::normal_tensor({2, c.in_channels, c.sample_size, c.sample_size}, 1),
               Tensor::from(std::vector<float>{0.3f, 0.9f}, {2}), Tensor::from(std::vector<int64_t>{1, 0}, {2}))
      .to_vector<float>();
}

struct Numbers {
  DType dtype;
  Quantization quantization;
};

class PackedCacheTest : public ::testing::TestWithParam<Numbers> {
 protected:
  std::string weights() const { return model_.path() + "/diffusion_pytorch_model.safetensors"; }

  RAEDiT2DModel open(const std::string& folder) {
    LoadOptions options;
    options.dtype = GetParam().dtype;
    options.quantization = GetParam().quantization;
    options.packed_cache = folder;
    options.note = [this](const std::string& text) { notes_.push_back(text); };
    return RAEDiT2DModel::from_pretrained(model_.path(), options);
  }
  // `folder` empty: without a cache.
  std::vector<float> run(const std::string& folder) { return run_model(open(folder)); }
  std::vector<float> run() { return run(cache_.path()); }

  std::vector<std::string> files() const { return files_in(cache_.path()); }

  // Puts `content` in the place of the only file, then loads: it is said once, the result is right, the file is whole
  // again.
  void expect_made_anew(const std::string& content, const std::string& why) {
    SCOPED_TRACE(why);
    const std::string path = files().at(0), good = slurp(path);
    spit(path, content);
    notes_.clear();
    EXPECT_EQ(run(), run(""));
    ASSERT_EQ(notes_.size(), 1u);
    EXPECT_NE(notes_[0].find(why), std::string::npos) << notes_[0];
    EXPECT_EQ(notes_[0].find('\n'), std::string::npos);
    EXPECT_EQ(slurp(path), good);
  }

  ModelFolder model_{"transformer/base"};
  ScratchFolder cache_;
  std::vector<std::string> notes_;
};

TEST_P(PackedCacheTest, GivesTheSameBitsAndIsWrittenOnce) {
  const auto expected = run("");
  EXPECT_EQ(run(), expected);
  ASSERT_EQ(files().size(), 1u);
  const auto written = fs::last_write_time(files()[0]);
  EXPECT_EQ(run(), expected);
  EXPECT_EQ(files().size(), 1u);
  EXPECT_EQ(fs::last_write_time(files()[0]), written);
  EXPECT_TRUE(notes_.empty()) << notes_[0];
}

// Other weights with right sums in the place of the file: they can only come from there.
TEST_P(PackedCacheTest, IsWhatProductsRead) {
  const auto expected = run();
  Packed packed(files().at(0));
  ASSERT_EQ(packed.data.size(), packed.header["bytes"].get<size_t>());
  std::fill(packed.data.begin(), packed.data.end(), '\0');
  packed.write(files()[0]);
  EXPECT_NE(run(), expected);
  EXPECT_TRUE(notes_.empty());
}

TEST_P(PackedCacheTest, HoldsEveryMatrixInItsForm) {
  const auto model = open(cache_.path());
  int64_t matrices = 0, in_eight_bits = 0, in_pairs = 0;
  nn::for_each_parameter(models::Internals::of(model), [&](const std::string&, const nn::Parameter& p) {
    if (p.packed == nullptr) return;
    ++matrices;
    in_eight_bits += p.packed->dtype == DType::int8 ? 1 : 0;
    in_pairs += p.swiglu ? 1 : 0;
  });
  EXPECT_EQ(in_eight_bits > 0, GetParam().quantization == Quantization::int8);
  const Packed packed(files().at(0));
  EXPECT_EQ(static_cast<int64_t>(packed.header["entries"].size()), matrices);
  EXPECT_EQ(packed.entries_of("int8"), in_eight_bits);
  EXPECT_GT(in_pairs, 0);
  EXPECT_EQ(packed.entries_of(in_eight_bits > 0 ? "int8 paired" : "paired"), in_pairs);
}

TEST_P(PackedCacheTest, SeesAChangedCheckpoint) {
  const auto before = run();
  const auto time = fs::last_write_time(weights());
  std::string content = slurp(weights());
  content[content.size() - 200] ^= 0x10;  // of as many bytes, as old
  spit(weights(), content);
  fs::last_write_time(weights(), time);
  EXPECT_EQ(run(), run(""));
  EXPECT_EQ(files().size(), 2u);
  content[content.size() - 200] ^= 0x10;
  spit(weights(), content);
  EXPECT_EQ(run(), before);
  EXPECT_EQ(files().size(), 2u);
  EXPECT_TRUE(notes_.empty());
}

TEST_P(PackedCacheTest, NeverUsesAnotherOrBrokenFile) {
  run();
  const std::string good = slurp(files().at(0));
  expect_made_anew(good.substr(0, good.size() / 2), "truncated");
  expect_made_anew(good.substr(0, good.size() - 1), "truncated");
  expect_made_anew(good.substr(0, 20), "truncated");
  expect_made_anew("", "truncated");
  expect_made_anew(std::string(good.size(), 'x'), "not a file of packed weights");
  for (const size_t at : {good.size() - 1, good.size() / 2}) {
    std::string damaged = good;
    damaged[at] ^= 1;
    expect_made_anew(damaged, "it is damaged");
  }
  std::string damaged = good;
  damaged[40] ^= 1;
  expect_made_anew(damaged, "its header is damaged");
}

TEST_P(PackedCacheTest, RefusesAFileOfOtherWeightsUnderItsName) {
  run();
  const std::string path = files().at(0);
  std::string content = slurp(weights());
  content[content.size() - 200] ^= 0x10;
  spit(weights(), content);
  run();
  ASSERT_EQ(files().size(), 2u);
  const std::string other = files()[0] == path ? files()[1] : files()[0];
  const std::string good = slurp(other);
  fs::copy_file(path, other, fs::copy_options::overwrite_existing);
  EXPECT_EQ(run(), run(""));
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("other weights"), std::string::npos) << notes_[0];
  EXPECT_EQ(slurp(other), good);
}

TEST_P(PackedCacheTest, AFolderThatCannotBeWrittenIsSaid) {
  spit(cache_.path() + "/file", "");
  EXPECT_EQ(run(cache_.path() + "/file/below"), run(""));
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("packed weights are not kept"), std::string::npos) << notes_[0];
}

// A pipe under the file's name would keep who writes there waiting.
TEST_P(PackedCacheTest, WhatIsNoFileIsLeftAlone) {
  const auto expected = run();
  const std::string name = files().front();
  fs::remove(name);
  ASSERT_EQ(::mkfifo(name.c_str(), 0600), 0);
  EXPECT_EQ(run(), expected);
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("packed weights are not kept"), std::string::npos) << notes_[0];
  EXPECT_TRUE(fs::is_fifo(name));
}

TEST_P(PackedCacheTest, ManyMayLoadAtOnce) {
  const auto expected = run("");
  std::vector<std::vector<float>> results(4);
  {
    std::vector<std::jthread> threads;
    for (auto& result : results) threads.emplace_back([&] { result = run(); });
  }
  for (const auto& result : results) EXPECT_EQ(result, expected);
  EXPECT_EQ(files().size(), 1u);
  EXPECT_EQ(run(), expected);
  EXPECT_TRUE(notes_.empty());
}

INSTANTIATE_TEST_SUITE_P(All, PackedCacheTest,
                         ::testing::Values(Numbers{DType::float32, Quantization::none},
                                           Numbers{DType::bfloat16, Quantization::none},
                                           Numbers{DType::float32, Quantization::int8},
                                           Numbers{DType::bfloat16, Quantization::int8}),
                         [](const auto& info) {
                           const bool eight = info.param.quantization == Quantization::int8;
                           return std::string(name_of(info.param.dtype)) + (eight ? "_int8" : "");
                         });

// The encoder of an autoencoder is packed when somebody encodes, and has a file of its own.
class EncoderCacheTest : public ::testing::TestWithParam<std::tuple<const char*, Numbers>> {
 protected:
  AutoencoderRAE open(const std::string& folder) {
    LoadOptions options;
    options.dtype = std::get<1>(GetParam()).dtype;
    options.quantization = std::get<1>(GetParam()).quantization;
    options.packed_cache = folder;
    options.note = [this](const std::string& text) { notes_.push_back(text); };
    return AutoencoderRAE::from_pretrained(model_.path(), options);
  }
  AutoencoderRAE open() { return open(cache_.path()); }
  static std::vector<float> encode(const AutoencoderRAE& vae) {
    const int64_t side = vae.config().encoder_input_size;
    Context ctx;
    return vae.encode(ctx, test::normal_tensor({2, 3, side, side}, 1)).to_vector<float>();
  }
  static std::vector<float> decode(const AutoencoderRAE& vae) {
    const auto& c = vae.config();
    Context ctx;
    const Shape shape = c.reshape_to_2d ? Shape{1, c.encoder_hidden_size, c.grid(), c.grid()}
                                        : Shape{1, c.num_patches(), c.encoder_hidden_size};
    return vae.decode(ctx, test::normal_tensor(shape, 2)).to_vector<float>();
  }
  std::vector<std::string> files() const { return files_in(cache_.path()); }
  // That one which encoding makes.
  std::string make_both() {
    const AutoencoderRAE vae = open();
    const auto before = files();
    EXPECT_EQ(before.size(), 1u);
    encode(vae);
    EXPECT_EQ(files().size(), 2u);
    return files().at(0) == before.at(0) ? files().at(1) : files().at(0);
  }

  ModelFolder model_{std::string("autoencoder/") + std::get<0>(GetParam())};
  ScratchFolder cache_;
  std::vector<std::string> notes_;
};

TEST_P(EncoderCacheTest, GivesTheSameBitsAndIsWrittenOnce) {
  const auto encoded = encode(open("")), decoded = decode(open(""));
  const std::string path = make_both();
  const auto written = fs::last_write_time(path);
  const AutoencoderRAE vae = open();
  EXPECT_EQ(encode(vae), encoded);
  EXPECT_EQ(decode(vae), decoded);
  EXPECT_EQ(fs::last_write_time(path), written);
  EXPECT_EQ(files().size(), 2u);
  EXPECT_TRUE(notes_.empty()) << notes_[0];
}

TEST_P(EncoderCacheTest, HoldsEveryMatrixThatProductsRead) {
  const std::string path = make_both();
  const AutoencoderRAE vae = open();
  const auto encoded = encode(vae), decoded = decode(vae);
  int64_t matrices = 0;
  nn::for_each_parameter(models::Internals::of(vae).loaded_encoder(),
                         [&](const std::string&, const nn::Parameter& p) { matrices += p.packed != nullptr ? 1 : 0; });
  Packed packed(path);
  EXPECT_EQ(static_cast<int64_t>(packed.header["entries"].size()), matrices);
  std::fill(packed.data.begin(), packed.data.end(), '\0');
  packed.write(path);
  EXPECT_NE(encode(open()), encoded);
  EXPECT_EQ(decode(open()), decoded);
  EXPECT_TRUE(notes_.empty()) << notes_[0];
}

TEST_P(EncoderCacheTest, ADamagedFileIsSaidWhenSomebodyEncodes) {
  const auto encoded = encode(open(""));
  const std::string path = make_both(), good = slurp(path);
  std::string damaged = good;
  damaged[good.size() - 100] ^= 1;
  spit(path, damaged);
  const AutoencoderRAE vae = open();
  EXPECT_TRUE(notes_.empty()) << notes_[0];
  EXPECT_EQ(encode(vae), encoded);
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find(path), std::string::npos) << notes_[0];
  EXPECT_NE(notes_[0].find("it is damaged"), std::string::npos) << notes_[0];
  EXPECT_EQ(slurp(path), good);
}

TEST_P(EncoderCacheTest, SeesAChangedCheckpoint) {
  const std::string weights = model_ / "diffusion_pytorch_model.safetensors";
  make_both();
  std::string content = slurp(weights);
  const auto set = SafetensorsSet::open(model_.path());
  for (const std::string& name : set.names())
    if (name.starts_with("encoder.")) content[set.info(name).offset] ^= 0x10;
  spit(weights, content);
  EXPECT_EQ(encode(open()), encode(open("")));
  EXPECT_EQ(files().size(), 4u);
  EXPECT_TRUE(notes_.empty()) << notes_[0];
}

INSTANTIATE_TEST_SUITE_P(All, EncoderCacheTest,
                         ::testing::Combine(::testing::Values("dinov2", "siglip2", "mae"),
                                            ::testing::Values(Numbers{DType::float32, Quantization::none},
                                                              Numbers{DType::bfloat16, Quantization::int8})),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" +
                                  std::string(name_of(std::get<1>(info.param).dtype));
                         });

// Weights that are not safetensors, or not in one piece of a file.
class OtherSourcesTest : public ::testing::Test {
 protected:
  std::vector<float> run(const std::shared_ptr<const WeightSet>& weights, const std::string& folder) {
    LoadOptions options{.packed_cache = folder};
    options.note = [this](const std::string& text) { notes_.push_back(text); };
    model_ = std::make_unique<RAEDiT2DModel>(
        RAEDiT2DModel::from_source({models::read_config(base_, "RAEDiT2DModel"), weights, "config"}, options));
    return run_model(*model_);
  }
  // Twice through the cache, which has every matrix then.
  void expect_kept(const std::shared_ptr<const WeightSet>& weights) {
    const auto expected = run(weights, "");
    EXPECT_EQ(run(weights, cache_.path()), expected);
    ASSERT_EQ(files_in(cache_.path()).size(), 1u);
    const std::string path = files_in(cache_.path())[0], content = slurp(path);
    const auto written = fs::last_write_time(path);
    EXPECT_EQ(run(weights, cache_.path()), expected);
    EXPECT_EQ(fs::last_write_time(path), written);
    EXPECT_EQ(slurp(path), content);
    int64_t matrices = 0;
    nn::for_each_parameter(models::Internals::of(*model_), [&](const std::string&, const nn::Parameter& p) {
      matrices += p.packed != nullptr ? 1 : 0;
    });
    EXPECT_EQ(static_cast<int64_t>(Packed(path).header["entries"].size()), matrices);
    EXPECT_TRUE(notes_.empty()) << notes_[0];
  }

  const std::string base_ = test::test_data("transformer/base");
  ScratchFolder scratch_, cache_;
  std::unique_ptr<RAEDiT2DModel> model_;
  std::vector<std::string> notes_;
};

TEST_F(OtherSourcesTest, PyTorchFilesAreKept) {
  std::vector<TensorSource> sources;
  for (const auto& [name, tensor] : test::read_weights(base_)) sources.push_back(TensorSource::of(name, tensor));
  const std::string file = scratch_ / "model.bin";
  write_torch(file, sources);
  expect_kept(open_weight_file(file));
}

// Half of the matrices are computed: they go by their numbers.
TEST_F(OtherSourcesTest, MatricesThatLieInNoFileAreKept) {
  NamedTensors in_file, in_memory;
  for (const auto& [name, tensor] : test::read_weights(base_))
    (in_file.size() > in_memory.size() ? in_memory : in_file).emplace_back(name, tensor);
  write_safetensors(scratch_ / "half.safetensors", in_file);
  const auto weights = std::make_shared<JoinedWeights>(JoinedWeights::Parts{
      open_weight_file(scratch_ / "half.safetensors"), std::make_shared<MemoryWeights>("computed", in_memory)});
  expect_kept(weights);
  const auto before = run(weights, "");
  for (const auto& [name, tensor] : in_memory)
    if (tensor.rank() == 2) tensor.data<float>()[tensor.numel() - 1] += 1;
  const auto changed = run(weights, "");
  EXPECT_NE(changed, before);
  EXPECT_EQ(run(weights, cache_.path()), changed);
  EXPECT_EQ(run(weights, cache_.path()), changed);
  EXPECT_EQ(files_in(cache_.path()).size(), 1u);
}

// A model in 8 bits under two calibrations, and without one.
class CalibratedCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Context ctx;
    const std::string model = test::test_data("pipeline");
    calibrate(ctx, RAEDiTPipeline::from_pretrained(model), {.pictures = 2, .num_inference_steps = 2}, first_);
    // The same matrices of the same model saw other inputs.
    const auto file = SafetensorsFile::open(first_);
    NamedTensors others;
    for (const std::string& name : file.names()) {
      const Tensor numbers = file.tensor(name).clone(), factors = test::normal_tensor(numbers.shape(), 3);
      for (int64_t i = 0; i < numbers.numel(); ++i)
        numbers.data<float>()[i] *= 0.1f + std::abs(factors.data<float>()[i]);
      others.emplace_back(name, numbers);
      calibrated_ += name.starts_with("transformer.") ? 1 : 0;
    }
    write_safetensors(second_, others, file.metadata());
    ASSERT_GT(calibrated_, 0);
  }

  std::vector<float> run(const std::string& calibration, const std::string& folder) {
    LoadOptions options{.quantization = Quantization::int8, .calibration = calibration, .packed_cache = folder};
    options.note = [this](const std::string& text) { notes_.push_back(text); };
    return run_model(RAEDiT2DModel::from_pretrained(test::test_data("pipeline") + "/transformer", options));
  }
  // The file that a load with this calibration makes.
  std::string file_of(const std::string& calibration) {
    const auto before = files_in(cache_.path());
    run(calibration, cache_.path());
    for (const std::string& path : files_in(cache_.path()))
      if (std::find(before.begin(), before.end(), path) == before.end()) return path;
    ADD_FAILURE() << "no new file";
    return "";
  }

  ScratchFolder scratch_, cache_;
  const std::string first_ = scratch_ / "first.safetensors", second_ = scratch_ / "second.safetensors";
  int64_t calibrated_ = 0;
  std::vector<std::string> notes_;
};

TEST_F(CalibratedCacheTest, EveryCalibrationHasAFileOfItsOwn) {
  const std::vector<std::string> calibrations{first_, second_, ""};
  std::vector<std::vector<float>> expected;
  for (const std::string& calibration : calibrations) expected.push_back(run(calibration, ""));
  EXPECT_NE(expected[0], expected[1]);
  EXPECT_NE(expected[0], expected[2]);
  for (int round = 0; round < 2; ++round)
    for (size_t i = 0; i < calibrations.size(); ++i) EXPECT_EQ(run(calibrations[i], cache_.path()), expected[i]);
  const auto files = files_in(cache_.path());
  EXPECT_EQ(files.size(), calibrations.size());
  // Found by its content, wherever it lies; and written once.
  std::vector<fs::file_time_type> written;
  for (const std::string& path : files) written.push_back(fs::last_write_time(path));
  fs::copy_file(first_, scratch_ / "elsewhere.safetensors");
  EXPECT_EQ(run(scratch_ / "elsewhere.safetensors", cache_.path()), expected[0]);
  EXPECT_EQ(files_in(cache_.path()).size(), files.size());
  for (size_t i = 0; i < files.size(); ++i) EXPECT_EQ(fs::last_write_time(files[i]), written[i]);
  EXPECT_TRUE(notes_.empty()) << notes_[0];
}

// Not even where a file says that it is another's.
TEST_F(CalibratedCacheTest, AMatrixOfAnotherCalibrationIsNotTaken) {
  const std::string first = file_of(first_), second = file_of(second_);
  Packed moved(first);
  moved.header["key"] = Packed(second).header["key"];
  moved.write(second);
  EXPECT_EQ(run(second_, cache_.path()), run(second_, ""));
  // Those of no calibration were found there, the others were made anew.
  const Packed now(second);
  const auto shared = [&](const Packed& other) {
    return std::count_if(now.header["entries"].begin(), now.header["entries"].end(), [&](const Json& entry) {
      return std::any_of(other.header["entries"].begin(), other.header["entries"].end(),
                         [&](const Json& e) { return e[0] == entry[0]; });
    });
  };
  EXPECT_EQ(shared(moved), static_cast<int64_t>(now.header["entries"].size()) - calibrated_);
  EXPECT_TRUE(notes_.empty()) << notes_[0];
}

// A file of both says that they belong together, and only then is the checkpoint not compared again.
TEST_F(CalibratedCacheTest, AnotherModelIsRefusedWhateverIsThere) {
  run(first_, cache_.path());
  const ModelFolder other("pipeline");
  const std::string transformer = other / "transformer";
  test::Weights weights = test::read_weights(transformer);
  const auto model = RAEDiT2DModel::from_pretrained(transformer, {.quantization = Quantization::int8});
  std::string last;
  nn::for_each_parameter(models::Internals::of(model), [&](const std::string& name, const nn::Parameter& p) {
    if (p.eight_bits) last = name;
  });
  weights.at(last).data<float>()[0] += 1;
  test::write_weights(transformer, weights);
  LoadOptions options{.quantization = Quantization::int8, .calibration = first_, .packed_cache = cache_.path()};
  for (int i = 0; i < 2; ++i)
    EXPECT_RAEDIT_ERROR(RAEDiT2DModel::from_pretrained(transformer, options), ErrorCode::format, "of another model",
                        last);
  EXPECT_EQ(files_in(cache_.path()).size(), 1u);
}

TEST_F(CalibratedCacheTest, ADamagedFileIsSaidAndMadeAnew) {
  const std::string path = file_of(first_), good = slurp(path);
  std::string damaged = good;
  damaged[good.size() - 100] ^= 1;
  spit(path, damaged);
  EXPECT_EQ(run(first_, cache_.path()), run(first_, ""));
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find("it is damaged"), std::string::npos) << notes_[0];
  EXPECT_EQ(slurp(path), good);
}

}  // namespace
}  // namespace raedit
