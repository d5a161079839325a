// raedit generate: every kind of output, what is written into the files, and the same numbers as the reference.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "cli_test.h"
#include "io/safetensors.h"
#include "raedit/image.h"

namespace raedit::cli_test {
namespace {

namespace fs = std::filesystem;

class GenerateTest : public CliTest {
 protected:
  GenerateTest() : model_(tiny_model()) {}

  std::vector<std::string> tiny(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments{"generate", "--model", model_, "--steps", "2", "--quiet"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  std::string model_;
};

std::map<std::string, std::string> png_text(const std::string& path) {
  std::map<std::string, std::string> text;
  for (const auto& [key, value] : load_png_text(path)) text[key] = value;
  return text;
}

TEST_F(GenerateTest, BundledModelIsTheDefault) {
  EXPECT_EQ(expect_success({"generate", "--label", "cat-face", "--seed", "42", "--steps", "2", "--quiet"}), "");
  EXPECT_EQ(names(), (std::vector<std::string>{"model", "raedit.png"}));
  const Image image = load_png(path("raedit.png"));
  EXPECT_EQ(image.width, 64);
  EXPECT_EQ(image.height, 64);
  const auto text = png_text(path("raedit.png"));
  EXPECT_EQ(text.at("Software"), "raedit " RAEDIT_TEST_VERSION);
  EXPECT_EQ(text.at("Model"), "emoji64");
  EXPECT_EQ(text.at("Label"), "cat-face");
  EXPECT_EQ(text.at("Class"), "13");
  EXPECT_EQ(text.at("Seed"), "42");
  EXPECT_EQ(text.at("Steps"), "2");
  EXPECT_EQ(text.at("Guidance"), "1");
  EXPECT_EQ(text.at("DType"), "float32");
}

TEST_F(GenerateTest, QuietSaysNothing) {
  const Result result = run(tiny({"--label", "two", "--output", "a.png"}));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out + result.err, "");
}

TEST_F(GenerateTest, PlainLinesWhenPiped) {
  const Result result = run({"generate", "--model", model_, "--steps", "50", "--label", "two", "--output", "a.png"});
  EXPECT_EQ(result.exit_code, 0);
  const auto lines = std::count(result.err.begin(), result.err.end(), '\n');
  EXPECT_GE(lines, 5);
  EXPECT_LE(lines, 12);
  EXPECT_EQ(result.err.find('\r'), std::string::npos);
  EXPECT_NE(result.err.find("sample 50/50"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("-> a.png"), std::string::npos) << result.err;
}

TEST_F(GenerateTest, BarOnATerminal) {
  RunOptions terminal;
  terminal.terminal = true;
  const Result result =
      run({"generate", "--model", model_, "--steps", "20", "--label", "two", "--output", "a.png"}, terminal);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_NE(result.err.find("\rsample ["), std::string::npos) << result.err;
  EXPECT_NE(result.err.find(" 20/20 "), std::string::npos) << result.err;
  const size_t last = result.err.rfind("\r\033[K");  // the bar is taken away before the summary
  ASSERT_NE(last, std::string::npos);
  EXPECT_NE(result.err.find("1 picture in ", last), std::string::npos) << result.err;
}

TEST_F(GenerateTest, SeveralPicturesInOnePngAreAGrid) {
  expect_success(tiny({"--label", "one", "--label", "two", "--count", "3", "--output", "wide.png", "--grid", "6"}));
  expect_success(tiny({"--label", "one", "--label", "two", "--count", "3", "--output", "square.PNG"}));
  const Image wide = load_png(path("wide.png")), square = load_png(path("square.PNG"));
  EXPECT_EQ(wide.width, 6 * 32);
  EXPECT_EQ(wide.height, 32);
  EXPECT_EQ(square.width, 3 * 32);
  EXPECT_EQ(square.height, 2 * 32);
  const auto text = png_text(path("wide.png"));
  EXPECT_EQ(text.at("Class"), "1, 1, 1, 2, 2, 2");
  EXPECT_EQ(text.at("Label"), "one, first; one, first; one, first; two; two; two");
  EXPECT_EQ(text.at("Seed"), "0, 1, 2, 3, 4, 5");
  // The same pictures in the same order.
  for (int k = 0; k < 6; ++k)
    for (int row = 0; row < 32; ++row)
      EXPECT_EQ(std::memcmp(&wide.rgb[static_cast<size_t>((row * 192 + k * 32) * 3)],
                            &square.rgb[static_cast<size_t>(((k / 3 * 32 + row) * 96 + k % 3 * 32) * 3)], 96),
                0);
}

TEST_F(GenerateTest, AFolderGetsOnePngEach) {
  expect_success(tiny({"--label", "Tinca tinca", "--class-id", "1", "--count", "2", "--seed", "5", "--output", "a/b/",
                       "--guidance", "1.5"}));
  EXPECT_EQ(names("a/b"), (std::vector<std::string>{"000_tench_seed5.png", "001_tench_seed6.png", "002_one_seed7.png",
                                                    "003_one_seed8.png"}));
  const auto text = png_text(path("a/b/002_one_seed7.png"));
  EXPECT_EQ(text.at("Label"), "one, first");
  EXPECT_EQ(text.at("Seed"), "7");
  EXPECT_EQ(text.at("Guidance"), "1.5");
  EXPECT_EQ(text.at("Guidance interval"), "0 to 1");
}

TEST_F(GenerateTest, AWholeLabelWithItsCommasIsAName) {
  const Json json =
      parse_json(expect_success(tiny({"--label", "tench, Tinca tinca", "--label", "first", "--json"})), "stdout");
  EXPECT_EQ(json["class_ids"], Json::array({3, 1}));
}

TEST_F(GenerateTest, WithoutALabelTheSeedPicksTheClass) {
  const auto ids = [&](const std::string& seed, const std::string& count) {
    return parse_json(expect_success(tiny({"--seed", seed, "--count", count, "--json"})), "stdout")["class_ids"];
  };
  const Json six = ids("3", "6");
  // torch.randint(4, (1,), generator=torch.Generator().manual_seed(s)) for s = 3 to 8
  EXPECT_EQ(six, Json::array({2, 2, 3, 2, 3, 3})) << six;
  EXPECT_EQ(ids("5", "1")[0], six[2]);
}

TEST_F(GenerateTest, JsonSaysWhatWasDone) {
  const std::string out = expect_success({"generate", "--model",          model_,  "--label", "two",      "--count",
                                          "3",        "--steps",          "4",     "--seed",  "9",        "--guidance",
                                          "2",        "--guidance-start", "0.25",  "--dtype", "bfloat16", "--threads",
                                          "1",        "--output",         "a.npz", "--json"});
  const Json json = parse_json(out, "stdout");
  EXPECT_EQ(json["model"], model_);
  EXPECT_EQ(json["labels"], Json::array({"two", "two", "two"}));
  EXPECT_EQ(json["class_ids"], Json::array({2, 2, 2}));
  EXPECT_EQ(json["seeds"], Json::array({9, 10, 11}));
  EXPECT_EQ(json["steps"], 4);
  EXPECT_EQ(json["guidance"], 2.0);
  EXPECT_EQ(json["guidance_start"], 0.25);
  EXPECT_EQ(json["guidance_end"], 1.0);
  EXPECT_EQ(json["dtype"], "bfloat16");
  EXPECT_EQ(json["threads"], 1);
  EXPECT_EQ(json["pictures"], 3);
  EXPECT_EQ(json["outputs"], Json::array({"a.npz"}));
  EXPECT_NE(json["device"].get<std::string>().find("cpu"), std::string::npos);
  double sum = 0;
  for (const char* phase : {"load", "sample", "decode", "write"}) {
    EXPECT_GT(json["seconds"][phase].get<double>(), 0) << phase;
    sum += json["seconds"][phase].get<double>();
  }
  EXPECT_LE(sum, json["seconds"]["total"].get<double>());
  EXPECT_GT(json["images_per_second"].get<double>(), 0);
  EXPECT_GT(json["peak_memory_bytes"].get<double>(), 1e6);
}

TEST_F(GenerateTest, EncoderReuseSkipsPassesAndSaysSo) {
  const auto generate = [&](const std::string& reuse, const std::string& output) {
    return parse_json(expect_success({"generate", "--model", model_, "--label", "two", "--count", "3", "--steps", "7",
                                      "--encoder-reuse", reuse, "--batch-size", "2", "--guidance", "2", "--quiet",
                                      "--json", "--output", output}),
                      "stdout");
  };
  const Json off = generate("1", "off.png"), third = generate("3", "third.png"), list = generate("0,3,6", "list.png");
  EXPECT_EQ(off["encoder_reuse"], "1");
  EXPECT_EQ(off["encoder_passes"], 7);
  EXPECT_EQ(third["encoder_reuse"], "3");
  EXPECT_EQ(third["encoder_passes"], 3);
  EXPECT_EQ(list["encoder_reuse"], "0,3,6");
  EXPECT_EQ(list["encoder_passes"], 3);
  EXPECT_EQ(load_png(path("third.png")), load_png(path("list.png")));
  EXPECT_NE(load_png(path("third.png")).rgb, load_png(path("off.png")).rgb);
  EXPECT_EQ(png_text(path("list.png")).at("Encoder reuse"), "0,3,6");
  EXPECT_FALSE(png_text(path("off.png")).contains("Encoder reuse"));
  expect_failure(tiny({"--label", "two", "--encoder-reuse", "0,1,2"}), 2,
                 {"encoder_reuse", "found 2, expected 0 to 1"});
}

// Fewer numbers than any GPU has threads: the geometry is named and changes nothing.
TEST_F(GenerateTest, RngNamesTheGeneratorAndSaysSo) {
  const auto generate = [&](const std::string& rng, const std::string& output, const std::string& batch) {
    return parse_json(expect_success(tiny({"--label", "two", "--count", "3", "--seed", "7", "--rng", rng, "--json",
                                           "--batch-size", batch, "--output", output})),
                      "stdout");
  };
  const std::string h100 = "torch-cuda:sm=132,threads=2048";
  EXPECT_EQ(generate("torch-cpu", "cpu.png", "8")["rng"], "torch-cpu");
  EXPECT_EQ(generate(h100, "h100.png", "8")["rng"], h100);
  EXPECT_EQ(generate("torch-cuda:threads=1536,sm=82", "3090.png", "2")["rng"], "torch-cuda:sm=82,threads=1536");
  EXPECT_EQ(load_png(path("h100.png")), load_png(path("3090.png")));
  EXPECT_NE(load_png(path("h100.png")).rgb, load_png(path("cpu.png")).rgb);
  EXPECT_EQ(png_text(path("h100.png")).at("RNG"), h100);
  EXPECT_FALSE(png_text(path("cpu.png")).contains("RNG"));
}

TEST_F(GenerateTest, SafetensorsHoldImagesLatentsAndClasses) {
  expect_success(tiny({"--class-id", "3", "--class-id", "0", "--output", "a.safetensors"}));
  const SafetensorsFile file = SafetensorsFile::open(path("a.safetensors"));
  EXPECT_EQ(file.names().size(), 3u);
  EXPECT_EQ(file.info("images").shape, Shape({2, 3, 32, 32}));
  EXPECT_EQ(file.info("images").dtype, DType::float32);
  EXPECT_EQ(file.info("latents").shape, Shape({2, 128, 4, 4}));
  EXPECT_EQ(file.tensor("class_labels").to_vector<int64_t>(), (std::vector<int64_t>{3, 0}));
  EXPECT_EQ(file.metadata().at("steps"), "2");
  EXPECT_EQ(file.metadata().at("model"), "model");
  bool fraction = false;
  for (const float v : file.tensor("images").to_vector<float>()) {
    EXPECT_GE(v, 0.0f);
    EXPECT_LE(v, 1.0f);
    fraction = fraction || v * 255.0f != std::nearbyint(v * 255.0f);
  }
  EXPECT_TRUE(fraction) << "images are rounded to 8 bits";
}

// The name of a folder can be any bytes; the texts in files cannot.
TEST_F(GenerateTest, AModelWhoseNameIsNotUtf8) {
  const std::string name = "mod\xff\xe9l", shown = "mod\ufffd\ufffdl";
  const std::string model = tiny_model(name);
  const auto generate = [&](const std::string& output) {
    expect_success({"generate", "--model", model, "--steps", "1", "--label", "two", "--quiet", "--output", output});
  };
  generate("a.png");
  EXPECT_EQ(png_text(path("a.png")).at("Model"), shown);
  generate("a.safetensors");
  EXPECT_EQ(SafetensorsFile::open(path("a.safetensors")).metadata().at("model"), shown);
}

TEST_F(GenerateTest, SeedsGoOnBehindTheLargestNumberForSeeds) {
  const Json json = parse_json(
      expect_success(tiny({"--seed", "9223372036854775807", "--count", "2", "--output", "a/", "--json"})), "stdout");
  EXPECT_EQ(json["seeds"], Json::array({9223372036854775807u, 9223372036854775808u}));
}

#ifndef __SANITIZE_ADDRESS__  // whose own memory would be counted too

double peak_memory(const std::string& json) {
  return parse_json(json, "stdout")["peak_memory_bytes"].get<double>();
}

// Images are 12 kB each, their latents 8 kB.
TEST_F(GenerateTest, LatentsThatNobodyAskedForAreNotKept) {
  const auto peak = [&](const std::string& count) {
    return peak_memory(expect_success({"generate", "--model", model_, "--steps", "1", "--class-id", "1", "--count",
                                       count, "--quiet", "--json", "--output", "a.npy"}));
  };
  const double few = peak("8");
  EXPECT_LT(peak("4008") - few, 4000 * (12288 + 4096));
}

TEST_F(GenerateTest, TheBundledModelNeedsLittleMemory) {
  const std::vector<std::string> one{"generate", "--label", "cat-face", "--quiet", "--json"};
  EXPECT_LT(peak_memory(expect_success(one)), 150e6);
  std::vector<std::string> many = one;
  many.insert(many.end(), {"--count", "16", "--guidance", "3"});
  EXPECT_LT(peak_memory(expect_success(many)), 150e6);
}

#endif

TEST_F(GenerateTest, LatentsAloneAreNotDecoded) {
  expect_success(tiny({"--class-id", "3", "--class-id", "0", "--output", "a.safetensors"}));
  expect_success(tiny({"--class-id", "3", "--class-id", "0", "--output-type", "latent"}));
  const SafetensorsFile file = SafetensorsFile::open(path("raedit.safetensors"));
  EXPECT_FALSE(file.contains("images"));
  EXPECT_TRUE(same_bytes(file.tensor("latents"), read_tensor(path("a.safetensors"), "latents")));
}

TEST_F(GenerateTest, NpyHoldsTheSameNumbersChannelsLast) {
  expect_success(tiny({"--class-id", "3", "--class-id", "0", "--output", "a.safetensors"}));
  expect_success(tiny({"--class-id", "3", "--class-id", "0", "--output", "a.npy"}));
  const std::string bytes = slurp(path("a.npy"));
  EXPECT_EQ(bytes.substr(0, 6), "\x93NUMPY");
  const size_t header = 10 + static_cast<uint8_t>(bytes[8]) + 256u * static_cast<uint8_t>(bytes[9]);
  EXPECT_NE(bytes.find("(2, 32, 32, 3)"), std::string::npos);
  EXPECT_NE(bytes.find("'<f4'"), std::string::npos);
  const Tensor nhwc = read_tensor(path("a.safetensors"), "images").transpose(1, 2).transpose(2, 3).contiguous();
  ASSERT_EQ(bytes.size() - header, nhwc.nbytes());
  EXPECT_EQ(std::memcmp(bytes.data() + header, nhwc.raw(), nhwc.nbytes()), 0);
}

TEST_F(GenerateTest, NpzHoldsImagesClassesAndSeeds) {
  expect_success(tiny({"--class-id", "1", "--output", "a.npz"}));
  const std::string bytes = slurp(path("a.npz"));
  EXPECT_EQ(bytes.substr(0, 4), "PK\x03\x04");
  for (const char* part : {"images.npy", "class_labels.npy", "seeds.npy", "(1, 32, 32, 3)", "'<i8'"})
    EXPECT_NE(bytes.find(part), std::string::npos) << part;
  expect_success(tiny({"--class-id", "1", "--output-type", "latent", "--output", "l.npz"}));
  const std::string latents = slurp(path("l.npz"));
  EXPECT_NE(latents.find("latents.npy"), std::string::npos);
  EXPECT_NE(latents.find("(1, 128, 4, 4)"), std::string::npos);
}

TEST_F(GenerateTest, PngIsTheRoundedImage) {
  expect_success(tiny({"--class-id", "2", "--output", "a.safetensors"}));
  expect_success(tiny({"--class-id", "2", "--output", "a.png"}));
  EXPECT_EQ(load_png(path("a.png")), to_image(read_tensor(path("a.safetensors"), "images").select(0, 0)));
}

TEST_F(GenerateTest, AgreesWithTheReferenceFromGivenLatents) {
  const std::string io = data_path("pipeline/io.safetensors");
  std::vector<std::string> arguments{"generate", "--model", model_,    "--latents", io,
                                     "--steps",  "25",      "--quiet", "--output",  "a.safetensors"};
  for (const int64_t id : read_tensor(io, "class_labels").to_vector<int64_t>()) {
    arguments.push_back("--class-id");
    arguments.push_back(std::to_string(id));
  }
  expect_success(arguments);
  EXPECT_LT(max_difference(read_tensor(path("a.safetensors"), "images"), read_tensor(io, "steps25.image")), 2e-5);
  expect_success({"generate", "--model", model_, "--latents", io + ":latents", "--steps", "2", "--output", "any/"});
  const std::vector<std::string> files = names("any");
  ASSERT_EQ(files.size(), 3u);
  EXPECT_EQ(files[0].find("seed"), std::string::npos) << files[0];
  EXPECT_EQ(png_text(path("any/" + files[0])).at("Latents"), "io.safetensors:latents");
}

TEST_F(GenerateTest, AgreesWithTheReferenceFromSeeds) {
  const std::string reference = data_path("emoji64/reference.safetensors");
  expect_success({"generate", "--class-id", "31", "--class-id", "4", "--seed", "42", "--guidance", "3", "--steps", "10",
                  "--quiet", "--output", "a.safetensors"});
  EXPECT_LT(max_difference(read_tensor(path("a.safetensors"), "images"), read_tensor(reference, "seeds_42_43.image")),
            2e-5);
}

TEST_F(GenerateTest, ModelIsFoundThroughTheEnvironment) {
  RunOptions options;
  options.environment["RAEDIT_MODEL_PATH"] = model_;
  expect_success({"generate", "--label", "zero", "--steps", "1", "--output", "a.png"}, options);
  fs::create_directory(path("models"));
  fs::rename(model_, path("models/emoji64"));
  options.environment["RAEDIT_MODEL_PATH"] = path("models");
  expect_success({"generate", "--label", "zero", "--steps", "1", "--output", "b.png"}, options);
  EXPECT_EQ(load_png(path("a.png")), load_png(path("b.png")));
  options.environment["RAEDIT_MODEL_PATH"] = path("nowhere");
  expect_failure({"generate"}, 1, {"RAEDIT_MODEL_PATH: no model there (found " + path("nowhere")}, options);
}

TEST_F(GenerateTest, AnInterruptLeavesNothing) {
  const auto before = snapshot();
  RunOptions options;
  options.interrupt_after_ms = 100;
  const Result result =
      run({"generate", "--model", model_, "--steps", "1000000", "--label", "two", "--output", "a.png"}, options);
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_NE(result.err.find("raedit: error: interrupted\n"), std::string::npos) << result.err;
  EXPECT_EQ(snapshot(), before);
}

TEST_F(GenerateTest, AFoldersFinishedPicturesSurviveAnInterrupt) {
  RunOptions options;
  options.interrupt_after_ms = 500;
  const Result result = run({"generate", "--model", model_, "--steps", "20", "--class-id", "1", "--count", "100000",
                             "--batch-size", "2", "--output", "a/"},
                            options);
  EXPECT_EQ(result.exit_code, 130);
  std::vector<std::string> there = names("a");
  ASSERT_GE(there.size(), 2u) << result.err;
  EXPECT_EQ(there.size() % 2, 0u) << "half a batch";
  std::sort(there.begin(), there.end());
  for (size_t i = 0; i < there.size(); ++i) {
    EXPECT_TRUE(there[i].starts_with(fmt::format("{:05}_", i))) << there[i];
    EXPECT_EQ(load_png(path("a/" + there[i])).width, 32);
  }
  EXPECT_NE(result.err.find(fmt::format("{} of 100000 pictures are in a/", there.size())), std::string::npos);
}

TEST_F(GenerateTest, AnOldFileIsReplacedOnlyByAWholeNewOne) {
  spit(path("a.png"), "old");
  expect_failure(tiny({"--label", "nothing-like-it", "--output", "a.png"}), 2, {"no such label"});
  EXPECT_EQ(slurp(path("a.png")), "old");
  expect_success(tiny({"--label", "two", "--output", "a.png"}));
  EXPECT_EQ(load_png(path("a.png")).width, 32);
}

}  // namespace
}  // namespace raedit::cli_test
