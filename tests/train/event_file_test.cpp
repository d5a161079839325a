// Event files against one that TensorBoard's own writer made (tools/dump_event_file.py), and read back by a reader that
// shares nothing with the writer; metrics.jsonl over kills, resumes and full disks.
#include "train/event_file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "io/io_test_util.h"
#include "raedit/image.h"
#include "train/metrics_file.h"

namespace raedit {
namespace {

using test::expect_error;
using test::ScratchFolder;
using test::slurp;
using test::spit;
using train::EventFile;
using train::MetricsFile;

const std::string kFolder = std::string(RAEDIT_TEST_DATA) + "/training";

// The first call names the file, the next is the time of the first record.
EventFile::Clock ticking() {
  return [now = 1700000000.25 - 1.0]() mutable { return now += 0.5; };
}

uint32_t crc32c(std::string_view data) {
  uint32_t crc = 0xffffffffu;
  for (const char c : data) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;
  }
  return ~crc;
}

template <class T>
T take(std::string_view& bytes) {
  T value{};
  if (bytes.size() < sizeof(T)) throw std::runtime_error("the bytes end too early");
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes.remove_prefix(sizeof(T));
  return value;
}

std::string_view take_bytes(std::string_view& bytes, uint64_t count) {
  if (bytes.size() < count) throw std::runtime_error("the bytes end too early");
  const std::string_view taken = bytes.substr(0, count);
  bytes.remove_prefix(count);
  return taken;
}

void expect_crc(uint32_t masked, std::string_view data) {
  const uint32_t rotated = masked - 0xa282ead8u;
  EXPECT_EQ(rotated >> 17 | rotated << 15, crc32c(data));
}

std::vector<std::string> read_records(const std::string& path) {
  const std::string content = slurp(path);
  std::string_view rest = content;
  std::vector<std::string> records;
  while (!rest.empty()) {
    const std::string_view length_bytes = rest.substr(0, 8);
    const auto length = take<uint64_t>(rest);
    expect_crc(take<uint32_t>(rest), length_bytes);
    const std::string_view data = take_bytes(rest, length);
    expect_crc(take<uint32_t>(rest), data);
    records.emplace_back(data);
  }
  return records;
}

uint64_t take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = take<uint8_t>(bytes);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

// Field number to value: numbers as their bits, the rest as bytes. Repeated fields keep every value.
struct Message {
  std::map<uint64_t, uint64_t> numbers;
  std::multimap<uint64_t, std::string> texts;

  explicit Message(std::string_view bytes) {
    while (!bytes.empty()) {
      const uint64_t key = take_varint(bytes);
      switch (key & 7) {
        case 0: numbers[key >> 3] = take_varint(bytes); break;
        case 1: numbers[key >> 3] = take<uint64_t>(bytes); break;
        case 5: numbers[key >> 3] = take<uint32_t>(bytes); break;
        case 2: {
          const uint64_t length = take_varint(bytes);
          texts.emplace(key >> 3, take_bytes(bytes, length));
          break;
        }
        default: throw std::runtime_error("unknown wire type");
      }
    }
  }
  const std::string& text(uint64_t field) const { return texts.find(field)->second; }
};

TEST(EventFile, ReaderKnowsCrc32c) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);  // RFC 3720's check value
}

TEST(EventFile, SameBytesAsTensorBoardsWriter) {
  const ScratchFolder scratch;
  const std::string png = slurp(kFolder + "/event_file.png");
  EventFile events(scratch / "logs/run", 300, ticking());
  events.add_scalar(0, "train/loss", 1.375f);
  events.add_scalars(129, {{"train/loss", 0.0f}, {"train/lr", 1e-4f}});
  events.add_scalars(int64_t{1} << 33, {{"train/grad_norm", std::numeric_limits<float>::infinity()}});
  events.add_png(1000, "samples/größe", png);
  const std::string expected = slurp(kFolder + "/event_file.tfevents");
  ASSERT_GT(expected.size(), 300u);
  EXPECT_EQ(slurp(events.path()), expected);  // while it is still open: nothing waits in a buffer
  EXPECT_NE(events.path().find("/logs/run/events.out.tfevents.1699999999."), std::string::npos) << events.path();
}

TEST(EventFile, RoundTrip) {
  const ScratchFolder scratch;
  Image image{300, 2, {}};
  std::mt19937 random(5);
  for (int i = 0; i < 300 * 2 * 3; ++i) image.rgb.push_back(static_cast<uint8_t>(random()));
  save_png(image, scratch / "picture.png");
  const std::string png = slurp(scratch / "picture.png");
  const std::vector<float> values = {-0.0f, 3.5e-39f, -12345.678f, std::nanf("")};

  EventFile events(scratch / "logs");
  events.add_scalars(1, {});  // no record
  for (size_t i = 0; i < values.size(); ++i)
    events.add_scalar(static_cast<int64_t>(i) - 1, "v" + std::to_string(i), values[i]);
  events.add_png(7, "picture", png);

  const auto records = read_records(events.path());
  ASSERT_EQ(records.size(), 6u);
  EXPECT_EQ(Message(records[0]).text(3), "brain.Event:2");
  for (size_t i = 0; i < values.size(); ++i) {
    Message event(records[i + 1]);
    const auto step = static_cast<int64_t>(event.numbers[2]);
    EXPECT_EQ(step, static_cast<int64_t>(i) - 1);
    EXPECT_GT(std::bit_cast<double>(event.numbers[1]), 1.7e9);
    Message value(Message(event.text(5)).text(1));
    EXPECT_EQ(value.text(1), "v" + std::to_string(i));
    EXPECT_EQ(value.numbers.at(2), std::bit_cast<uint32_t>(values[i]));
  }
  Message picture(Message(Message(Message(records[5]).text(5)).text(1)).text(4));
  EXPECT_EQ(picture.numbers[1], 2u);
  EXPECT_EQ(picture.numbers[2], 300u);
  EXPECT_EQ(picture.numbers[3], 3u);
  spit(scratch / "again.png", picture.text(4));
  EXPECT_EQ(load_png(scratch / "again.png"), image);
}

TEST(EventFile, ResumeStartsANewFile) {
  const ScratchFolder scratch;
  EventFile first(scratch.path(), std::nullopt, ticking());
  first.add_scalar(1, "loss", 2.0f);
  const std::string before = slurp(first.path());
  EventFile second(scratch.path(), 0, ticking());  // the same second, the same process
  second.add_scalar(1, "loss", 3.0f);
  EXPECT_NE(first.path(), second.path());
  EXPECT_LT(first.path(), second.path());
  EXPECT_EQ(scratch.names().size(), 2u);
  EXPECT_EQ(slurp(first.path()), before);
  const auto records = read_records(second.path());
  ASSERT_EQ(records.size(), 3u);
  Message session(records[1]);
  EXPECT_EQ(session.numbers[2], 1u);  // what is forgotten begins here
  EXPECT_EQ(Message(session.text(7)).numbers[1], 1u);
}

TEST(EventFile, RefusesWhatTensorBoardCannotRead) {
  const ScratchFolder scratch;
  EventFile events(scratch.path());
  const std::string before = slurp(events.path());
  expect_error(ErrorCode::invalid_argument, {"tag"}, [&] { events.add_scalar(1, "", 1.0f); });
  expect_error(ErrorCode::invalid_argument, {"tag", "UTF-8"}, [&] { events.add_scalar(1, "\xff", 1.0f); });
  expect_error(ErrorCode::invalid_argument, {"PNG", "picture"}, [&] { events.add_png(1, "picture", "GIF89a"); });
  EXPECT_EQ(slurp(events.path()), before);
}

TEST(EventFile, FolderThatCannotBeWritten) {
  const ScratchFolder scratch;
  spit(scratch / "file", "not a folder");
  expect_error(ErrorCode::io, {scratch / "file"}, [&] { EventFile events(scratch / "file"); });
  expect_error(ErrorCode::io, {scratch / "file/logs"}, [&] { EventFile events(scratch / "file/logs"); });
  expect_error(ErrorCode::io, {scratch / "file/metrics.jsonl"},
               [&] { MetricsFile::create(scratch / "file/metrics.jsonl"); });
  expect_error(ErrorCode::io, {scratch / "none/metrics.jsonl"},
               [&] { MetricsFile::resume(scratch / "none/metrics.jsonl", 1); });
}

TEST(EventFile, HalfARecordIsTakenBack) {
  const ScratchFolder scratch;
  EventFile events(scratch.path());
  auto metrics = MetricsFile::create(scratch / "metrics.jsonl");
  const std::string events_before = slurp(events.path());
  {
    const test::FileSizeLimit limit(events_before.size() + 10);
    expect_error(ErrorCode::io, {events.path(), "ulimit"}, [&] { events.add_scalar(1, "lost", 1.0f); });
    const Json line = {{"step", 1}, {"text", std::string(events_before.size() + 20, 'x')}};
    expect_error(ErrorCode::io, {"metrics.jsonl", "ulimit"}, [&] { metrics.append(line); });
  }
  EXPECT_EQ(slurp(events.path()), events_before);
  EXPECT_EQ(slurp(metrics.path()), "");
  events.add_scalar(2, "kept", 1.0f);
  metrics.append({{"step", 2}});
  EXPECT_EQ(read_records(events.path()).size(), 2u);
  EXPECT_EQ(slurp(metrics.path()), "{\"step\":2}\n");
}

TEST(MetricsFile, OneObjectALine) {
  const ScratchFolder scratch;
  auto metrics = MetricsFile::create(scratch / "metrics.jsonl");
  metrics.append({{"step", 1}, {"loss", 0.5}, {"note", "a\nb"}});
  metrics.append({{"loss", std::nan("")}, {"step", 2}});
  const std::string written = slurp(metrics.path());
  EXPECT_EQ(written,
            "{\"step\":1,\"loss\":0.5,\"note\":\"a\\nb\"}\n"
            "{\"loss\":null,\"step\":2}\n");
  expect_error(ErrorCode::invalid_argument, {"step"}, [&] { metrics.append({{"loss", 1.0}}); });
  expect_error(ErrorCode::invalid_argument, {"step"}, [&] { metrics.append({{"step", 1.5}}); });
  expect_error(ErrorCode::invalid_argument, {"step"}, [&] { metrics.append(Json::array({1})); });
  expect_error(ErrorCode::invalid_argument, {"UTF-8"}, [&] { metrics.append({{"step", 3}, {"note", "\xff"}}); });
  expect_error(ErrorCode::io, {metrics.path(), "resume"}, [&] { MetricsFile::create(metrics.path()); });
  EXPECT_EQ(slurp(metrics.path()), written);
}

TEST(MetricsFile, ResumeCuts) {
  const ScratchFolder scratch;
  const std::string path = scratch / "metrics.jsonl";
  struct Case {
    std::string before;
    int64_t step;
    std::string kept;
  };
  const std::string one = "{\"step\": 1, \"loss\":0.10}\n", two = "{\"step\":2}\n", three = "{\"step\":3}\n";
  for (const Case& c : std::vector<Case>{
           {one + two + three, 2, one + two},
           {one + two + three, 3, one + two + three},
           {one + two + three, 0, ""},
           {one + three + two, 2, one + two},
           {one + two + "{\"step\":3,\"lo", 9, one + two},
           {one + two + "{\"step\":3,\"lo", 1, one},
           {one + two + std::string(5, '\0'), 9, one + two},
           {one + "{\"step\":2}", 2, one + two},
           {"{", 2, ""},
           {"", 2, ""},
       }) {
    SCOPED_TRACE(c.before);
    spit(path, c.before);
    auto metrics = MetricsFile::resume(path, c.step);
    EXPECT_EQ(slurp(path), c.kept);
    metrics.append({{"step", c.step + 1}});
    EXPECT_EQ(slurp(path), c.kept + "{\"step\":" + std::to_string(c.step + 1) + "}\n");
  }
  std::filesystem::remove(path);
  MetricsFile::resume(path, 5).append({{"step", 6}});  // killed before its first line
  EXPECT_EQ(slurp(path), "{\"step\":6}\n");
  EXPECT_EQ(scratch.names(), std::vector<std::string>{"metrics.jsonl"});
}

TEST(MetricsFile, ResumeLeavesAFileThatIsNotOurs) {
  const ScratchFolder scratch;
  const std::string path = scratch / "metrics.jsonl";
  for (const std::string content :
       {"{\"step\":1}\nstep 2\n{\"step\":3}\n", "{\"step\":1}\n{\"loss\":3}\n", "{\"step\":1}\n7"}) {
    spit(path, content);
    expect_error(ErrorCode::format, {path + ":2"}, [&] { MetricsFile::resume(path, 0); });
    EXPECT_EQ(slurp(path), content);
  }
}

}  // namespace
}  // namespace raedit
