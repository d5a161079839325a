// Pickles as byte strings: what each opcode means, what is refused, and that nothing a file says goes without bound.
#include "io/pickle.h"

#include <gtest/gtest.h>

#include <limits>

#include "io/io_test_util.h"

namespace raedit::test {
namespace {

using namespace std::string_literals;

PickleValue parse(const std::string& bytes) {
  return parse_pickle(bytes, "x.pkl").root;
}

std::string repeat(const std::string& text, size_t times) {
  std::string all;
  for (size_t i = 0; i < times; ++i) all += text;
  return all;
}

std::string text(const std::string& value) {
  return "X"s + static_cast<char>(value.size()) + "\0\0\0"s + value;
}

TEST(Pickle, Integers) {
  const std::vector<std::pair<std::string, int64_t>> cases = {
      {"K\xff."s, 255},
      {"M\x01\x02."s, 513},
      {"J\xfe\xff\xff\xff."s, -2},
      {"I-42\n."s, -42},
      {"L9223372036854775807L\n."s, std::numeric_limits<int64_t>::max()},
      {"\x8a\0."s, 0},
      {"\x8a\x02\x00\xff."s, -256},
      {"\x8a\x02\xff\x00."s, 255},
      {"\x8a\x08\0\0\0\0\0\0\0\x80."s, std::numeric_limits<int64_t>::min()},
      {"\x8b\x01\0\0\0\x7f."s, 127},
  };
  for (const auto& [bytes, expected] : cases) EXPECT_EQ(parse(bytes).integer(), expected) << bytes;
}

TEST(Pickle, IntegersBeyond64BitsAreThereButNotUsed) {
  for (const auto& bytes : {"\x8a\x09\0\0\0\0\0\0\0\0\x01."s, "L18446744073709551616L\n."s,
                            "\x8b\x28\0\0\0"s + std::string(40, 'a') + "."}) {
    const PickleValue value = parse(bytes);
    EXPECT_EQ(value.kind(), PickleKind::other);
    EXPECT_NE(value.describe().find("integer"), std::string::npos);
    expect_error(ErrorCode::format, {"x.pkl", "integer", "expected an integer"}, [&] { (void)value.integer(); });
  }
}

TEST(Pickle, OtherScalars) {
  EXPECT_EQ(parse("N."s).kind(), PickleKind::none);
  EXPECT_TRUE(parse("\x88."s).boolean());
  EXPECT_FALSE(parse("\x89."s).boolean());
  EXPECT_TRUE(parse("I01\n."s).boolean());
  EXPECT_FALSE(parse("I00\n."s).boolean());
  EXPECT_EQ(parse("G?\xf8\0\0\0\0\0\0."s).real(), 1.5);
  EXPECT_EQ(parse("F-2.5e3\n."s).real(), -2500.0);
  EXPECT_EQ(parse("K\x07."s).real(), 7.0);
}

TEST(Pickle, Strings) {
  for (const auto& bytes : {"X\2\0\0\0hi."s, "\x8c\2hi."s, "\x8d\2\0\0\0\0\0\0\0hi."s, "U\2hi."s, "T\2\0\0\0hi."s,
                            "S'h\\x69'\n."s, "S\"h\\151\"\n."s, "Vh\\u0069\n."s})
    EXPECT_EQ(parse(bytes).string(), "hi") << bytes;
  EXPECT_EQ(parse("V\xfc\\U0001f600\\\n."s).string(), "\u00fc\U0001f600\\");
  EXPECT_EQ(parse("S'\\\\\\'\\n\\t\\r'\n."s).string(), "\\'\n\t\r");
  EXPECT_EQ(parse(text("gr\u00f6\u00dfe") + ".").string(), "gr\u00f6\u00dfe");
}

TEST(Pickle, StringsAreUtf8) {
  for (const auto& bytes :
       {"\x80"s, "\xc0\x80"s, "\xed\xa0\x80"s, "\xf4\x90\x80\x80"s, "\xe0\x9f\x80"s, "a\xf0\x8f\xbf\xbf"s, "\xc3"s})
    expect_error(ErrorCode::format, {"not UTF-8"}, [&] { parse(text(bytes) + "."); });
  expect_error(ErrorCode::format, {"not UTF-8"}, [] { parse("V\\ud800\n."s); });
  for (const auto& bad : {"S'open\n."s, "S'\\x1'\n."s, "S'\\777'\n."s, "Snone\n."s, "V\\u12\n."s, "V\\U00110000\n."s})
    expect_error(ErrorCode::format, {"damaged"}, [&] { parse(bad); });
}

TEST(Pickle, Bytes) {
  for (const auto& bytes :
       {"C\2\xff\0."s, "B\2\0\0\0\xff\0."s, "\x8e\2\0\0\0\0\0\0\0\xff\0."s, "\x96\2\0\0\0\0\0\0\0\xff\0."s,
        "U\2\xff\0."s, "c__builtin__\nbytes\n)R."s, "c_codecs\nencode\n" + text("\u00ff") + text("latin1") + "\x86R."})
    EXPECT_EQ(parse(bytes).kind(), PickleKind::bytes) << bytes;
  expect_error(ErrorCode::format, {"not latin1"},
               [] { parse("c_codecs\nencode\n" + text("\u20ac") + text("latin1") + "\x86R."); });
  expect_error(ErrorCode::unsupported, {"'rot13'"},
               [] { parse("c_codecs\nencode\n" + text("a") + text("rot13") + "\x86R."); });
}

std::vector<int64_t> integers(const PickleValue& value) {
  std::vector<int64_t> found;
  for (size_t i = 0; i < value.size(); ++i) found.push_back(value.item(i).integer());
  return found;
}

TEST(Pickle, Containers) {
  using K = PickleKind;
  const std::vector<std::tuple<std::string, PickleKind, std::vector<int64_t>>> cases = {
      {")."s, K::tuple, {}},
      {"K\1\x85."s, K::tuple, {1}},
      {"K\1K\2\x86."s, K::tuple, {1, 2}},
      {"K\1K\2K\3\x87."s, K::tuple, {1, 2, 3}},
      {"(K\1K\2K\3K\4t."s, K::tuple, {1, 2, 3, 4}},
      {"]."s, K::list, {}},
      {"]K\1aK\2a."s, K::list, {1, 2}},
      {"](K\1K\2e."s, K::list, {1, 2}},
      {"(K\1K\2l."s, K::list, {1, 2}},
      {"\x8f(K\1K\2\x90."s, K::set, {1, 2}},
      {"(K\1K\2\x91."s, K::set, {1, 2}},
      {"cbuiltins\nfrozenset\n](K\1K\2e\x85R."s, K::set, {1, 2}},
      {"ctorch\nSize\n(K\1K\2t\x85R."s, K::tuple, {1, 2}},
      {"(K\1K\2d."s, K::dict, {2}},
      {"}K\1K\2s."s, K::dict, {2}},
      {"}(K\1K\2K\3K\4u."s, K::dict, {2, 4}},
      {"ccollections\nOrderedDict\n](](K\1K\2ee\x85R."s, K::dict, {2}},
  };
  for (const auto& [bytes, kind, items] : cases) {
    EXPECT_EQ(parse(bytes).kind(), kind) << bytes;
    EXPECT_EQ(integers(parse(bytes)), items) << bytes;
  }
}

TEST(Pickle, TheLastOfEqualKeysWins) {
  const PickleValue dict = parse("}(" + text("a") + "K\1" + text("b") + "K\2" + text("a") + "K\3u.");
  EXPECT_EQ(dict.find("a")->integer(), 3);
  EXPECT_EQ(dict.find("b")->integer(), 2);
  EXPECT_FALSE(dict.find("c"));
  EXPECT_EQ(dict.key(0).string(), "a");
  EXPECT_FALSE(parse("}K\1K\2s."s).find("\1"));
}

TEST(Pickle, MemoAndStack) {
  EXPECT_EQ(integers(parse("K\7q\5h\5\x86."s)), (std::vector<int64_t>{7, 7}));
  EXPECT_EQ(integers(parse("K\7r\xff\xff\xff\xffj\xff\xff\xff\xff\x86."s)), (std::vector<int64_t>{7, 7}));
  EXPECT_EQ(integers(parse("K\7p300\ng300\n\x86."s)), (std::vector<int64_t>{7, 7}));
  EXPECT_EQ(integers(parse("\x80\4(K\7\x94K\x08\x94h\0h\1t."s)), (std::vector<int64_t>{7, 8, 7, 8}));  // MEMOIZE
}

TEST(Pickle, StackIsTidiedAway) {
  EXPECT_EQ(parse("K\1K\2"
                  "0."s)
                .integer(),
            1);                              // POP
  EXPECT_EQ(parse("K\1(0."s).integer(), 1);  // POP of a mark
  EXPECT_EQ(parse("K\1(K\2K\3"
                  "1."s)
                .integer(),
            1);  // POP_MARK
  EXPECT_EQ(integers(parse("K\1"
                           "2\x86."s)),
            (std::vector<int64_t>{1, 1}));                                                      // DUP
  EXPECT_EQ(parse("\x80\4\x95\3\0\0\0\0\0\0\0K\1."s).integer(), 1);                             // FRAME
  EXPECT_TRUE(parse("ccollections\nOrderedDict\n)R}" + text("_metadata") + "}sb.").is_dict());  // BUILD
}

TEST(Pickle, SaysHowManyBytesItTook) {
  const ParsedPickle parsed = parse_pickle("K\1.more"s, "x.pkl");
  EXPECT_EQ(parsed.bytes, 3u);
}

TEST(Pickle, RefusesGlobalsByName) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"cposix\nsystem\n" + text("touch raedit_was_here") + "\x85R.", "'posix.system'"},
      {"cos\nsystem\n."s, "'os.system'"},
      {"c__builtin__\neval\n."s, "'__builtin__.eval'"},
      {"cbuiltins\ngetattr\n."s, "'builtins.getattr'"},
      {text("subprocess") + text("Popen") + "\x93.", "'subprocess.Popen'"},
      {"(" + text("ls") + "ios\nsystem\n.", "'os.system'"},
      {"ctorch.storage\n_load_from_bytes\n."s, "'torch.storage._load_from_bytes'"},
      {"ctorch.serialization\n_get_layout\n."s, "'torch.serialization._get_layout'"},
      {"ctorch._utils\n_rebuild_qtensor\n."s, "'torch._utils._rebuild_qtensor'"},
      {"ctorch\nQInt8Storage\n."s, "'torch.QInt8Storage'"},
      {"ctorch\nload\n."s, "'torch.load'"},
      {"ccollections\ndefaultdict\n."s, "'collections.defaultdict'"},
      {"cnumpy\ndtype\n."s, "'numpy.dtype'"},
      {"ccollections.OrderedDict\n__class__\n."s, "'collections.OrderedDict.__class__'"},
      {"cos\x1b[2J\nsystem\n."s, "'os\\x1b[2J.system'"},
      {"c\n\n."s, "'.'"},
  };
  for (const auto& [bytes, name] : cases)
    expect_error(ErrorCode::unsupported, {"x.pkl", "global " + name + " is refused", "executes nothing"},
                 [&, &bytes = bytes] { parse(bytes); });
}

TEST(Pickle, RefusesOpcodesThatMakeObjects) {
  const std::string dict_class = "ccollections\nOrderedDict\n";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {dict_class + ")\x81.", "NEWOBJ"},
      {dict_class + ")}\x92.", "NEWOBJ_EX"},
      {"(" + dict_class + "o.", "OBJ"},
      {"(icollections\nOrderedDict\n.", "INST"},
      {"\x82\1."s, "EXT1"},
      {"\x83\1\0."s, "EXT2"},
      {"\x84\1\0\0\0."s, "EXT4"},
      {"\x97."s, "NEXT_BUFFER"},
      {"C\1a\x98."s, "READONLY_BUFFER"},
      {dict_class + "}b.", "BUILD"},
  };
  for (const auto& [bytes, opcode] : cases)
    expect_error(ErrorCode::unsupported, {"opcode " + opcode + " at byte", "is refused"},
                 [&, &bytes = bytes] { parse(bytes); });
  expect_error(ErrorCode::format, {"persistent id is text"}, [] { parse("Pabc\n."s); });
  expect_error(ErrorCode::unsupported, {"persistent id 'module'"}, [] { parse(text("module") + "N\x86Q."); });
}

TEST(Pickle, GarbledInputNamesTheByte) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"K\1\xff."s, "byte 2: there is no opcode 0xff"},
      {"0."s, "byte 0: the stack is empty"},
      {"K\1\x86."s, "byte 2: the stack holds too little"},
      {"K\1t."s, "byte 2: there is no mark"},
      {"K\1(\x85."s, "byte 3: the stack holds too little"},  // not through a mark
      {"h\1."s, "byte 0: there is no memo 1"},
      {"p1\n."s, "byte 0: the stack is empty"},
      {"K\1p-1\n."s, "byte 2: a memo's number"},
      {"K\1p1x\n."s, "byte 2: a memo's number"},
      {"(K\1d."s, "byte 3: a dict has a key without a value"},
      {"}(K\1u."s, "byte 4: a dict has a key without a value"},
      {"K\1K\2a."s, "byte 4: items are added to an integer, not to a list"},
      {")K\1a."s, "byte 3: items are added to a tuple"},
      {"\x80\6."s, "byte 0: there is no protocol 6"},
      {"K\1K\2."s, "byte 4: the stack is not empty at the end"},
      {"Ix\n."s, "byte 0: an integer is damaged"},
      {"I\n."s, "byte 0: an integer is damaged"},
      {"F1.5x\n."s, "byte 0: a float is damaged"},
      {"K\1K\2\x93."s, "byte 4: a global's name is no string"},
  };
  for (const auto& [bytes, part] : cases)
    expect_error(ErrorCode::format, {"x.pkl", "damaged pickle at " + part}, [&, &bytes = bytes] { parse(bytes); });
  expect_error(ErrorCode::format, {"at byte 102"}, [] { parse_pickle("K\1\xff."s, "x.pkl", 100); });
  for (const auto& bytes : {"K\1K\2R."s, "]K\1R."s, "ctorch\nFloatStorage\n)R."s, "ctorch\nSize\nK\1\x85R."s,
                            "ccollections\nOrderedDict\n]K\1a\x85R."s, ")Q."s, "K\1Q."s, "K\1\x85Q."s})
    EXPECT_THROW(parse(bytes), Error) << bytes;
}

TEST(Pickle, EveryTruncationIsNamed) {
  const std::string whole = slurp(RAEDIT_SOURCE_DIR "/tests/io/data/torch/hostile_plain.pkl").substr(0, 13) +
                            "(K\1\x8c\2hiG?\xf8\0\0\0\0\0\0S'x'\nL5L\nB\2\0\0\0ab\x8b\1\0\0\0\1t"s + "s."s;
  EXPECT_TRUE(parse(whole).is_dict());
  for (size_t length = 0; length < whole.size(); ++length)
    expect_error(ErrorCode::format, {"x.pkl", "truncated at byte " + std::to_string(7 + length)},
                 [&] { parse_pickle(std::string_view(whole).substr(0, length), "x.pkl", 7); });
}

TEST(Pickle, DeclaredLengthsAllocateNothing) {
  for (const auto& bytes :
       {"X\xff\xff\xff\xffhi."s, "T\xff\xff\xff\xffhi."s, "B\xff\xff\xff\x7fhi."s, "\x8b\xff\xff\xff\x7fhi."s,
        "\x8d\xff\xff\xff\xff\xff\xff\xff\xff."s, "\x8e\0\0\0\0\0\0\0\x80."s, "\x96\0\0\0\0\1\0\0\0."s,
        "\x95\xff\xff\xff\xff\xff\xff\xff\x7fN."s, "U\xff."s})
    expect_error(ErrorCode::format, {"truncated at byte " + std::to_string(bytes.size())}, [&] { parse(bytes); });
}

TEST(Pickle, DeepNestingIsNoRecursion) {
  constexpr size_t kDepth = 1'000'000;
  PickleValue value = parse(repeat("]", kDepth) + repeat("a", kDepth - 1) + ".");
  for (size_t i = 1; i < kDepth; ++i) value = value.item(0);
  EXPECT_EQ(value.size(), 0u);
}

TEST(Pickle, CirclesAreHarmless) {
  PickleValue value = parse("]q\0h\0a."s);
  for (int i = 0; i < 1000; ++i) value = value.item(0);
  EXPECT_EQ(value.kind(), PickleKind::list);
}

TEST(Pickle, SharedListsDoNotMultiply) {
  std::string laughs = "(]q\0"s;
  for (char level = 1; level < 60; ++level) {
    laughs += "]q"s + level + "(";
    for (int i = 0; i < 10; ++i) laughs += "h"s + static_cast<char>(level - 1);
    laughs += "e";
  }
  PickleValue value = parse(laughs + "l.");
  EXPECT_EQ(value.size(), 60u);
  value = value.item(59);
  for (int level = 59; level > 0; --level) {
    ASSERT_EQ(value.size(), 10u);
    value = value.item(9);
  }
  EXPECT_EQ(value.size(), 0u);
}

TEST(Pickle, MemoryIsBounded) {
  const auto too_much = [](const std::string& bytes) {
    expect_error(ErrorCode::format, {"x.pkl", "too many values"}, [&] { parse(bytes); });
  };
  // Copies of one long list.
  const std::string list = "(" + std::string(100'000, 'N') + "l\x85q\0"s + "ctorch\nSize\nq\1"s;
  too_much(list + repeat("h\1h\0R"s, 1000) + ".");
  too_much(std::string(20'000'000, ')') + ".");  // small values
  too_much(std::string(60'000'000, '('));        // marks
  too_much("N" + std::string(60'000'000, '2'));  // the stack
  // Many tensors with one large dict behind them, which is looked through for each.
  const std::string storage = "((" + text("storage") + "ctorch\nFloatStorage\n" + text("0") + text("cpu") + "K\1tQ";
  too_much(storage + "K\0))\x89N}("s + repeat("K\1\x89", 200'000) + "utq\2" +
           "ctorch._utils\n_rebuild_tensor_v2\nq\1"s + repeat("h\1h\2R0"s, 300) + "0.");
  expect_error(ErrorCode::format, {"too large", "64.00 MiB"}, [] { parse(repeat("\x80\2", size_t{33} << 20) + "."); });
}

TEST(Pickle, RandomDamageIsAnErrorAndNothingElse) {
  const std::string whole = slurp(RAEDIT_SOURCE_DIR "/tests/io/data/torch/checkpoint_legacy.pt").substr(0, 1800);
  const size_t begin = parse_pickle(whole, "x").bytes;
  std::mt19937 engine(1);
  int errors = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string damaged = whole.substr(begin + 6);
    for (int n = 1 + static_cast<int>(engine() % 4); n > 0; --n)
      damaged[engine() % damaged.size()] = static_cast<char>(engine());
    try {
      size_t at = 0;
      while (at < damaged.size()) at += parse_pickle(std::string_view(damaged).substr(at), "x", at).bytes;
    } catch (const Error& error) {
      ++errors;
      EXPECT_TRUE(error.code() == ErrorCode::format || error.code() == ErrorCode::unsupported) << error.what();
    }
  }
  EXPECT_GT(errors, 10'000);
}

}  // namespace
}  // namespace raedit::test
