#include "core/json.h"

#include <fmt/format.h>

#include "expect_error.h"

namespace raedit {
namespace {

Json parse(std::string_view text) {
  return parse_json(text, "x.json");
}

TEST(ParseJson, KeepsTheOrderOfKeys) {
  const Json json = parse(R"({"b": 1, "a": [true, null, -2, 3.5, "\u00e9"], "c": {"d": {}}})");
  EXPECT_EQ(json.dump(), "{\"b\":1,\"a\":[true,null,-2,3.5,\"\u00e9\"],\"c\":{\"d\":{}}}");
  EXPECT_EQ(parse(" 7 "), Json(7));
}

TEST(ParseJson, NamesTheByteOfAMistake) {
  EXPECT_RAEDIT_ERROR(parse(R"({"a": 1,})"), ErrorCode::format, "x.json", "byte 9");
  EXPECT_RAEDIT_ERROR(parse(""), ErrorCode::format, "byte 1");
  EXPECT_RAEDIT_ERROR(parse(R"({"a": 1)"), ErrorCode::format, "byte 8");
  EXPECT_RAEDIT_ERROR(parse(R"({"a": 1} {})"), ErrorCode::format, "byte 10");
  EXPECT_RAEDIT_ERROR(parse(R"({"a": NaN})"), ErrorCode::format, "byte");
  EXPECT_RAEDIT_ERROR(parse("{\"a\": \"\xff\"}"), ErrorCode::format, "byte");
  EXPECT_RAEDIT_ERROR(parse(std::string_view("{\"a\": 1}\0x", 10)), ErrorCode::format, "byte 9", "zero");
  EXPECT_RAEDIT_ERROR(parse(R"({"a": 1e999})"), ErrorCode::format, "byte");
}

TEST(ParseJson, RefusesAKeyTwice) {
  EXPECT_RAEDIT_ERROR(parse(R"({"a": {"w": 1, "v": 2, "w": 1}})"), ErrorCode::format, "'w'", "twice");
  EXPECT_EQ(parse(R"({"a": {"w": 1}, "b": {"w": 1}})").size(), 2u);
}

TEST(ParseJson, LimitsTheDepth) {
  const auto nested = [](int depth) {
    return std::string(static_cast<size_t>(depth), '[') + std::string(static_cast<size_t>(depth), ']');
  };
  EXPECT_TRUE(parse(nested(kMaxJsonDepth)).is_array());
  EXPECT_RAEDIT_ERROR(parse(nested(kMaxJsonDepth + 1)), ErrorCode::format, "deep");
  EXPECT_RAEDIT_ERROR(parse(std::string(1 << 20, '[')), ErrorCode::format, "deep");
  std::string objects;
  for (int i = 0; i <= kMaxJsonDepth; ++i) objects += "{\"a\":";
  EXPECT_RAEDIT_ERROR(parse(objects), ErrorCode::format, "deep");
}

// More keys than any checkpoint has: the library's own object would take quadratic time.
TEST(ParseJson, ReadsManyKeysInLinearTime) {
  constexpr int kKeys = 100'000;
  std::string text = "{";
  for (int i = 0; i < kKeys; ++i)
    text += fmt::format(R"({}"blocks.{}.attention.weight": {{"dtype": "F32", "data_offsets": [{}, {}]}})",
                        i == 0 ? "" : ", ", i, i, i + 1);
  text += "}";
  const Json json = parse(text);
  ASSERT_EQ(json.size(), static_cast<size_t>(kKeys));
  EXPECT_EQ(json.back()["data_offsets"][1], kKeys);
}

TEST(JsonReader, ReadsByTypeWithFallbacks) {
  const Json json = parse(R"({"i": -3, "f": 0.5, "fi": 2, "b": false, "s": "x", "n": null, "p": 14, "pp": [14, 16],
                              "l": [1, 2, 3], "o": {"k": 1}})");
  JsonReader reader(json, "config.json");
  EXPECT_EQ(reader.int64("i"), -3);
  EXPECT_EQ(reader.int64("i", 5), -3);
  EXPECT_EQ(reader.int64("none", 5), 5);
  EXPECT_EQ(reader.number("f"), 0.5);
  EXPECT_EQ(reader.number("fi", 1.0), 2.0);
  EXPECT_EQ(reader.number("none", 1.5), 1.5);
  EXPECT_FALSE(reader.boolean("b", true));
  EXPECT_TRUE(reader.boolean("none", true));
  EXPECT_EQ(reader.string("s", "y"), "x");
  EXPECT_EQ(reader.string("none", "y"), "y");
  EXPECT_EQ(reader.int_pair("p"), (std::array<int64_t, 2>{14, 14}));
  EXPECT_EQ(reader.int_pair("pp"), (std::array<int64_t, 2>{14, 16}));
  EXPECT_EQ(reader.int_pair("none", {1, 2}), (std::array<int64_t, 2>{1, 2}));
  EXPECT_EQ(reader.optional_int64("n"), std::nullopt);
  EXPECT_EQ(reader.optional_int64("none"), std::nullopt);
  EXPECT_EQ(reader.optional_int64("i"), -3);
  EXPECT_EQ(reader.optional_number("fi"), 2.0);
  EXPECT_EQ(reader.raw("none"), nullptr);
  EXPECT_EQ(reader.raw("l")->size(), 3u);
  EXPECT_NE(reader.raw("o"), nullptr);
  EXPECT_TRUE(reader.has("n"));
  EXPECT_FALSE(reader.has("none"));
  reader.finish();
}

TEST(JsonReader, TakesNothingForSomethingElse) {
  const Json json = parse(R"({"f": 1.5, "one": 1.0, "big": 9223372036854775808, "b": true, "s": "1", "n": null,
                              "triple": [1, 2, 3], "mixed": [1, 2.5], "max": 9223372036854775807, "e": 1e-06})");
  JsonReader reader(json, "dit/config.json");
  EXPECT_RAEDIT_ERROR(reader.int64("f"), ErrorCode::format, "dit/config.json", "'f'", "1.5", "expected an integer");
  EXPECT_RAEDIT_ERROR(reader.int64("f", 7), ErrorCode::format, "1.5");  // a fallback does not cover a wrong value
  EXPECT_RAEDIT_ERROR(reader.int64("one"), ErrorCode::format, "1.0");
  EXPECT_RAEDIT_ERROR(reader.int64("b"), ErrorCode::format, "true");
  EXPECT_RAEDIT_ERROR(reader.int64("s"), ErrorCode::format, "string");
  EXPECT_RAEDIT_ERROR(reader.int64("n", 1), ErrorCode::format, "null");
  EXPECT_RAEDIT_ERROR(reader.int64("big"), ErrorCode::format, "9223372036854775808");
  EXPECT_EQ(reader.int64("max"), INT64_MAX);
  EXPECT_EQ(reader.number("e"), 1e-6);
  EXPECT_RAEDIT_ERROR(reader.number("b"), ErrorCode::format, "expected a number");
  EXPECT_RAEDIT_ERROR(reader.boolean("one"), ErrorCode::format, "true or false");
  EXPECT_RAEDIT_ERROR(reader.string("n"), ErrorCode::format, "a string");
  EXPECT_RAEDIT_ERROR(reader.int_pair("triple"), ErrorCode::format, "[1,2,3]", "a list of two");
  EXPECT_RAEDIT_ERROR(reader.int_pair("f"), ErrorCode::format, "1.5");
  EXPECT_RAEDIT_ERROR(reader.int_pair("mixed"), ErrorCode::format, "[1,2.5]", "a list of two");
  EXPECT_RAEDIT_ERROR(reader.optional_int64("f"), ErrorCode::format, "1.5");
  EXPECT_RAEDIT_ERROR(reader.int64("none"), ErrorCode::format, "'none' is missing");
  const Json list = parse("[1]");
  EXPECT_RAEDIT_ERROR(JsonReader(list, "a.json"), ErrorCode::format, "a.json", "array [1]");
}

TEST(JsonReader, FinishNamesTheNearestKnownKey) {
  const Json json = parse(R"({"_class_name": "X", "hidden_sise": 4, "depth": 2})");
  JsonReader reader(json, "config.json");
  reader.int64("hidden_size", 1152);
  EXPECT_RAEDIT_ERROR(reader.finish(), ErrorCode::format, "config.json", "unknown key 'hidden_sise'",
                      "did you mean 'hidden_size'?");
  reader.int64("hidden_sise", 1);
  EXPECT_RAEDIT_ERROR(reader.finish(), ErrorCode::format, "'depth'", "known keys: hidden_size");
  reader.int64("depth", 1);
  reader.finish();
}

TEST(JsonReader, CutsLongValuesInMessages) {
  const Json json = parse(fmt::format(R"({{"s": "{}"}})", std::string(10'000, 'x')));
  JsonReader reader(json, "config.json");
  try {
    reader.int64("s");
    FAIL();
  } catch (const Error& error) {
    EXPECT_LT(std::string(error.what()).size(), 200u);
  }
}

TEST(JsonReader, CutsBetweenCharacters) {
  for (size_t before = 50; before < 60; ++before) {
    const std::string head(before, 'x');
    const Json json = parse(fmt::format(R"({{"s": "{}\u00e9\u20ac\u00e9\u20ac\u00e9\u20ac"}})", head));
    JsonReader reader(json, "config.json");
    try {
      reader.int64("s");
      FAIL();
    } catch (const Error& error) {
      EXPECT_NO_THROW((void)Json(error.what()).dump()) << "not UTF-8 after " << before;
      EXPECT_NE(std::string(error.what()).find("string \"" + head), std::string::npos) << error.what();
    }
  }
}

TEST(JsonReader, ShowsTheStartOfNestedValues) {
  const Json json = parse(R"({"v": {"a": [1, [], {}, null, "x"], "b": {"c": -0.5, "d": true}}})");
  JsonReader reader(json, "config.json");
  EXPECT_RAEDIT_ERROR(reader.int64("v"), ErrorCode::format,
                      R"(found object {"a":[1,[],{},null,"x"],"b":{"c":-0.5,"d":true}}, expected)");
}

TEST(JsonReader, DoesNotWriteAWholeListIntoAMessage) {
  Json json = Json::object();
  json["l"] = Json::array();
  for (int i = 0; i < 100'000; ++i) json["l"].push_back("a string of some length");
  JsonReader reader(json, "config.json");
  try {
    reader.int64("l");
    FAIL() << "no Error";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(R"(["a string of some length","a string)"), std::string::npos) << message;
    EXPECT_LT(message.size(), 300u);
  }
}

}  // namespace
}  // namespace raedit
