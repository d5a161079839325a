// What OmegaConf 2.3.0 reads in nasty.yaml (nasty.json beside it), and the files that are refused.
#include "io/yaml.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "core/json.h"
#include "io/files.h"
#include "io_test_util.h"
#include "unit/expect_error.h"

namespace raedit {
namespace {

Json parse(const std::string& text) {
  return parse_yaml(text, "x.yaml");
}

// NaN and infinities as tools/dump_omegaconf.py writes them.
Json without_specials(const Json& value) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    const double number = value.get<double>();
    return std::isnan(number) ? "float nan" : number > 0 ? "float inf" : "float -inf";
  }
  if (!value.is_structured()) return value;
  Json copy = value.is_array() ? Json::array() : Json::object();
  for (const auto& [key, item] : value.items()) {
    if (value.is_array())
      copy.push_back(without_specials(item));
    else
      copy[key] = without_specials(item);
  }
  return copy;
}

std::string repeat(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

const std::string kData = std::string(RAEDIT_SOURCE_DIR) + "/tests/io/data/";

TEST(Yaml, ReadsEveryValueAsOmegaConfDoes) {
  const Json ours = without_specials(read_yaml(kData + "nasty.yaml"));
  const Json theirs = parse_json(read_file(kData + "nasty.json"), "nasty.json").at("values");
  ASSERT_GT(theirs.size(), 20u);
  EXPECT_EQ(ours.size(), theirs.size());
  // dump() tells 1 from 1.0 and sees the order of keys, which == does not.
  for (const auto& [section, value] : theirs.items()) {
    ASSERT_TRUE(ours.contains(section)) << section;
    if (!value.is_structured()) {
      EXPECT_EQ(ours.at(section).dump(), value.dump()) << section;
      continue;
    }
    ASSERT_EQ(ours.at(section).size(), value.size()) << section;
    for (const auto& [key, item] : value.items()) {
      const Json& own = value.is_array() ? ours.at(section).at(std::stoul(key)) : ours.at(section).at(key);
      EXPECT_EQ(own.dump(), item.dump()) << section << " " << key;
    }
    EXPECT_EQ(ours.at(section).dump(), value.dump()) << section;
  }
}

TEST(Yaml, NumbersHaveTheirTypes) {
  const Json json = parse("a: 1e-6\nb: 1\nc: 1.0\nd: '1'\ne: 18446744073709551615\nf: .inf\ng: -9223372036854775808");
  EXPECT_TRUE(json["a"].is_number_float());
  EXPECT_EQ(json["a"].get<double>(), 1e-6);
  EXPECT_TRUE(json["b"].is_number_integer());
  EXPECT_TRUE(json["c"].is_number_float());
  EXPECT_TRUE(json["d"].is_string());
  EXPECT_EQ(json["e"].get<uint64_t>(), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(json["f"].get<double>(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(json["g"].get<int64_t>(), std::numeric_limits<int64_t>::min());
}

TEST(Yaml, AnExclamationMarkAloneMakesAString) {
  EXPECT_EQ(parse("a: ! 12")["a"], "12");
}

TEST(Yaml, EscapesAreUtf8) {
  const Json value = parse("\"k\\_\": \"\xc3\xa4\\N\\_\\x85\\xe0\\N\xe2\x82\xac\\L\\U0001F600\\_\"");
  EXPECT_EQ(value.begin().key(), "k\xc2\xa0");
  EXPECT_EQ(value.begin().value(), Json("\xc3\xa4\xc2\x85\xc2\xa0\xc2\x85\xc3\xa0\xc2\x85\xe2\x82\xac\xe2\x80\xa8"
                                        "\xf0\x9f\x98\x80\xc2\xa0"));
}

TEST(Yaml, AnEmptyDocumentIsNull) {
  EXPECT_TRUE(parse("").is_null());
  EXPECT_TRUE(parse("# nothing\n").is_null());
  EXPECT_EQ(parse("\xef\xbb\xbf"
                  "a: 1")["a"],
            1);
}

TEST(Yaml, RefusesWhatIsNotYaml) {
  EXPECT_RAEDIT_ERROR(parse("a: [1, 2\nb: 3"), ErrorCode::format, "x.yaml", "line", "column");
  EXPECT_RAEDIT_ERROR(parse("a: 1\n b: 2"), ErrorCode::format, "x.yaml: line 2");
  EXPECT_RAEDIT_ERROR(parse("a: *nobody"), ErrorCode::format, "x.yaml: line 1, column 4", "anchor");
  EXPECT_RAEDIT_ERROR(parse("a: \"open"), ErrorCode::format, "x.yaml");
}

TEST(Yaml, RefusesAKeyTwice) {
  EXPECT_RAEDIT_ERROR(parse("a: 1\nb: 2\na: 3"), ErrorCode::format, "twice", "x.yaml: line 3, column 1", "'a'");
  EXPECT_RAEDIT_ERROR(parse("{'1': 1, 1: 2}"), ErrorCode::format, "twice", "column 10", "'1'");
}

TEST(Yaml, RefusesKeysThatAreNoText) {
  EXPECT_RAEDIT_ERROR(parse("? [1, 2]\n: 3"), ErrorCode::unsupported, "x.yaml: line 1, column 3", "key");
  EXPECT_RAEDIT_ERROR(parse("? {a: 2}\n: 3"), ErrorCode::unsupported, "x.yaml: line 1", "key");
  EXPECT_RAEDIT_ERROR(parse("a: &l [1]\n*l : 3"), ErrorCode::unsupported, "x.yaml: line 2", "key");
  EXPECT_RAEDIT_ERROR(parse("~: 3"), ErrorCode::unsupported, "null");
}

TEST(Yaml, RefusesTagsNamingThem) {
  EXPECT_RAEDIT_ERROR(parse("a: !!python/object/apply:os.system ['touch x']"), ErrorCode::unsupported,
                      "python/object/apply:os.system", "x.yaml: line 1, column 4");
  EXPECT_RAEDIT_ERROR(parse("a: !own 3"), ErrorCode::unsupported, "!own");
  EXPECT_RAEDIT_ERROR(parse("a: !!binary aGk="), ErrorCode::unsupported, "binary");
  EXPECT_RAEDIT_ERROR(parse("a: !!set {x, y}"), ErrorCode::unsupported, "set");
  EXPECT_RAEDIT_ERROR(parse("a: !!int word"), ErrorCode::format, "'word'", "x.yaml: line 1, column 4");
  EXPECT_RAEDIT_ERROR(parse("a: !!bool 3"), ErrorCode::format, "boolean");
}

TEST(Yaml, RefusesNumbersThatDoNotFit) {
  EXPECT_RAEDIT_ERROR(parse("a: 18446744073709551616"), ErrorCode::format, "18446744073709551616", "line 1, column 4");
  EXPECT_RAEDIT_ERROR(parse("a: -9223372036854775809"), ErrorCode::format, "-9223372036854775809");
  EXPECT_RAEDIT_ERROR(parse("a: 1:59:59:59:59:59:59:59:59:59:59:59:59"), ErrorCode::format, "fits");
  EXPECT_RAEDIT_ERROR(parse("a: 1e999"), ErrorCode::format, "1e999");
  EXPECT_RAEDIT_ERROR(parse("a: 0b_"), ErrorCode::format, "0b_");
}

TEST(Yaml, RefusesASecondDocument) {
  EXPECT_RAEDIT_ERROR(parse("a: 1\n---\nb: 2"), ErrorCode::format, "second", "x.yaml: line");
  EXPECT_EQ(parse("---\na: 1\n...\n")["a"], 1);
}

TEST(Yaml, RefusesWhatIsNoText) {
  EXPECT_RAEDIT_ERROR(parse(std::string("a: 1\n\0b: 2", 10)), ErrorCode::format, "byte 5", "0x00");
  EXPECT_RAEDIT_ERROR(parse("a: 1\n\x04 b: 2"), ErrorCode::format, "byte 5", "0x04");
  EXPECT_RAEDIT_ERROR(parse("a: \xff"), ErrorCode::format, "byte 3", "0xff");
  EXPECT_RAEDIT_ERROR(parse("a: \xc3"), ErrorCode::format, "byte 3");
  EXPECT_RAEDIT_ERROR(parse("a: \xed\xa0\x80"), ErrorCode::format, "byte 3");
  EXPECT_RAEDIT_ERROR(parse("a: \xc0\xaf"), ErrorCode::format, "byte 3");
  EXPECT_RAEDIT_ERROR(parse(std::string("\xff\xfe"
                                        "a\0:\0",
                                        6)),
                      ErrorCode::format, "byte 0");
}

TEST(Yaml, DepthIsBounded) {
  EXPECT_NO_THROW(parse(repeat("[", 64) + repeat("]", 64)));
  EXPECT_RAEDIT_ERROR(parse(repeat("[", 65) + repeat("]", 65)), ErrorCode::format, "deep", "64");
  for (const char* open : {"[", "{", "- ", "? ", "a: {", "!!seq [", "- - ["})
    EXPECT_THROW(parse(repeat(open, 100'000)), Error) << open;
  EXPECT_RAEDIT_ERROR(parse(repeat("- ", 1'000'000)), ErrorCode::format, "deep");
  // by an alias, which goes deeper than the text does
  const std::string deep = "a: &a " + repeat("[", 60) + repeat("]", 60);
  EXPECT_NO_THROW(parse(deep + "\nb: [[[*a]]]"));
  EXPECT_RAEDIT_ERROR(parse(deep + "\nb: [[[[*a]]]]"), ErrorCode::format, "deep");
  EXPECT_RAEDIT_ERROR(parse(deep + "\nb: [[[['${a}']]]]"), ErrorCode::format, "deep");
}

TEST(Yaml, AliasesAndInterpolationsCannotMultiplyWithoutBound) {
  std::string laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n", wholes = "a0: [x, x, x, x, x, x, x, x, x]\n";
  std::string texts = "a0: xxxxxxxxxxxxxxxx\n", silent = "a0: ''\n";
  for (int i = 1; i < 30; ++i) {
    const std::string name = fmt::format("a{}", i), last = fmt::format("a{}", i - 1);
    laughs += name + ": &" + name + " [" + repeat("*" + last + ", ", 9) + "]\n";
    wholes += name + ": [" + repeat("'${" + last + "}', ", 9) + "]\n";
    texts += name + ": " + repeat("${" + last + "}", 9) + "\n";
    silent += name + ": " + repeat("${" + last + "}", 2) + "\n";
  }
  EXPECT_RAEDIT_ERROR(parse(laughs), ErrorCode::format, "too many values", "100000");
  EXPECT_RAEDIT_ERROR(parse(wholes), ErrorCode::format, "too many values", "100000");
  EXPECT_RAEDIT_ERROR(parse(texts), ErrorCode::format, "too many values");
  EXPECT_RAEDIT_ERROR(parse(silent), ErrorCode::format, "too many values");
  EXPECT_RAEDIT_ERROR(parse("a: &a " + std::string(1 << 20, 'x') + "\nb: [" + repeat("*a, ", 20) + "]"),
                      ErrorCode::format, "too many values");
  EXPECT_RAEDIT_ERROR(parse("[" + repeat("1,", 100'001) + "]"), ErrorCode::format, "too many values");
  EXPECT_RAEDIT_ERROR(parse("a: &a [*a]"), ErrorCode::format, "alias", "x.yaml: line 1, column 8");
}

TEST(Yaml, RefusesMergesOfWhatIsNoMapping) {
  EXPECT_RAEDIT_ERROR(parse("a: {<<: 3}"), ErrorCode::format, "<<", "x.yaml: line 1");
  EXPECT_RAEDIT_ERROR(parse("a: {<<: [{b: 1}, 3]}"), ErrorCode::format, "<<");
}

TEST(YamlInterpolation, RefusesCircles) {
  EXPECT_RAEDIT_ERROR(parse("a: ${a}"), ErrorCode::format, "itself", "x.yaml: a");
  EXPECT_RAEDIT_ERROR(parse("a: ${b}\nb: {c: 'x${a.c}'}"), ErrorCode::format, "itself");
  EXPECT_RAEDIT_ERROR(parse("a: {b: [1, '${a}']}"), ErrorCode::format, "itself", "a.b[1]");
  std::string chain;
  for (int i = 0; i < 1000; ++i) chain += fmt::format("a{}: ${{a{}}}\n", i, i + 1);
  EXPECT_RAEDIT_ERROR(parse(chain + "a1000: 1"), ErrorCode::format, "too often");
  EXPECT_RAEDIT_ERROR(parse("a: " + repeat("${", 1000) + repeat("}", 1000)), ErrorCode::format, "deep");
}

TEST(YamlInterpolation, RefusesWhatLeadsNowhere) {
  EXPECT_RAEDIT_ERROR(parse("a: {b: '${model.widht}'}\nmodel: {width: 3}"), ErrorCode::format, "x.yaml: a.b",
                      "no 'widht' in model", "'width'");
  EXPECT_RAEDIT_ERROR(parse("a: ${b.c}\nb: 3"), ErrorCode::format, "'b' is no list and no object");
  EXPECT_RAEDIT_ERROR(parse("a: ${b[2]}\nb: [1, 2]"), ErrorCode::format, "no element '2' in b");
  EXPECT_RAEDIT_ERROR(parse("a: ${b.one}\nb: [1, 2]"), ErrorCode::format, "no element 'one'");
  EXPECT_RAEDIT_ERROR(parse("a: {b: '${....c}'}\nc: 1"), ErrorCode::format, "above the top level", "a.b");
  EXPECT_RAEDIT_ERROR(parse("a: ${b}\nb: ???"), ErrorCode::format, "missing value", "x.yaml: a");
  EXPECT_RAEDIT_ERROR(parse("a: x${b}\nb: ${c}\nc: ???"), ErrorCode::format, "missing value");
}

TEST(YamlInterpolation, LongNamesAreNeitherCarriedAboutNorCompared) {
  const std::string name(1023, 'a');
  EXPECT_RAEDIT_ERROR(parse("? " + name + "bc\n: 1"), ErrorCode::format, "key is too long", "1025 bytes");
  try {
    parse("? " + name + "b\n: 1\nx: ${" + name + "c}");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("leads nowhere"), std::string::npos);
    EXPECT_EQ(error.info().hint, "");  // looking for a near one takes the square of the length
  }
}

TEST(YamlInterpolation, RefusesWhatIsNone) {
  EXPECT_RAEDIT_ERROR(parse("a: ${b"), ErrorCode::format, "no end", "x.yaml: a");
  EXPECT_RAEDIT_ERROR(parse("a: ${}"), ErrorCode::format, "without a name");
  EXPECT_RAEDIT_ERROR(parse("a: ${b..c}\nb: {c: 1}"), ErrorCode::format, "empty");
  EXPECT_RAEDIT_ERROR(parse("a: ${b c}\nb: 1"), ErrorCode::format, "no end");
  EXPECT_RAEDIT_ERROR(parse("a: ${(b)}\nb: 1"), ErrorCode::format, "'('");
}

TEST(YamlInterpolation, RefusesResolversNamingThem) {
  EXPECT_RAEDIT_ERROR(parse("a: {b: '${oc.env:HOME}'}"), ErrorCode::unsupported, "'oc.env'", "x.yaml: a.b");
  EXPECT_RAEDIT_ERROR(parse("a: ${mine:}"), ErrorCode::unsupported, "'mine'");
  EXPECT_RAEDIT_ERROR(parse("a: x ${b} y\nb: [1]"), ErrorCode::unsupported, "inside a string", "x.yaml: a");
}

TEST(Yaml, AFileHoldsAMapping) {
  EXPECT_RAEDIT_ERROR(read_yaml(kData + "no_such.yaml"), ErrorCode::not_found, "no_such.yaml");
  test::ScratchFolder folder;
  for (const char* text : {"[1, 2]", "", "word", "3"}) {
    test::spit(folder / "c.yaml", text);
    EXPECT_RAEDIT_ERROR(read_yaml(folder / "c.yaml"), ErrorCode::format, "c.yaml", "mapping");
  }
  test::spit(folder / "c.yaml", "a: 1");
  EXPECT_EQ(read_yaml(folder / "c.yaml").dump(), "{\"a\":1}");
}

}  // namespace
}  // namespace raedit
