// ZipWriter, read back by the small reader of zip_bytes.h.
#include "io/zip_writer.h"

#include "io_test_util.h"
#include "zip_bytes.h"

namespace raedit {
namespace {

using test::bytes_of;
using test::crc_bit_by_bit;
using test::expect_error;
using test::parse_zip;
using test::random_tensor;
using test::ScratchFolder;
using test::slurp;

ZipWriter::Chunks chunks_of(const std::string& content, int& calls) {
  return [&](const ByteSink& sink) {
    ++calls;
    const size_t half = content.size() / 2;
    sink(content.data(), half);
    sink(content.data() + half, content.size() - half);
  };
}

TEST(ZipWriter, MixesBothKindsOfRecords) {
  const ScratchFolder folder;
  for (const uint64_t zip64_from : {uint64_t{ZipWriter::kZip64From}, uint64_t{4000}, uint64_t{1}}) {
    const std::string large = bytes_of(random_tensor({3'000'001}, DType::uint8, 1));
    const std::string small = bytes_of(random_tensor({77}, DType::uint8, 2));
    int calls = 0;
    ZipWriter writer(folder / "a.zip", zip64_from);
    writer.add("front", small.size(), chunks_of(small, calls));
    EXPECT_EQ(calls, 2);
    EXPECT_EQ(writer.add_aligned("ä", large.size(), chunks_of(large, calls), 64), crc_bit_by_bit(large));
    EXPECT_EQ(calls, 3);
    EXPECT_EQ(writer.add_aligned("empty", "", 4096), 0u);
    EXPECT_EQ(writer.add_aligned("small", small, 4096), crc_bit_by_bit(small));
    writer.add("back", large.size(), chunks_of(large, calls));
    EXPECT_FALSE(std::filesystem::exists(folder / "a.zip"));
    writer.commit();
    const auto records = parse_zip(slurp(folder / "a.zip"));
    ASSERT_EQ(records.size(), 5u);
    const std::vector<std::pair<std::string, std::string>> expected = {
        {"front", small}, {"ä", large}, {"empty", ""}, {"small", small}, {"back", large}};
    for (size_t i = 0; i < records.size(); ++i) {
      EXPECT_EQ(records[i].name, expected[i].first);
      EXPECT_TRUE(records[i].content == expected[i].second) << records[i].name;
      EXPECT_EQ(records[i].zip64, records[i].header >= zip64_from || records[i].content.size() >= zip64_from);
    }
    EXPECT_EQ(records[1].data % 64, 0u);
    EXPECT_EQ(records[2].data % 4096, 0u);
    EXPECT_EQ(records[3].data % 4096, 0u);
    std::filesystem::remove(folder / "a.zip");
  }
}

TEST(ZipWriter, RefusesRecordsOfAnotherLengthThanAnnounced) {
  const ScratchFolder folder;
  const std::string content = "12345";
  int calls = 0;
  for (const uint64_t announced : {4, 6}) {
    const std::vector<std::string> parts = {folder / "a.zip", "'r'", "found 5 bytes",
                                            "expected " + std::to_string(announced)};
    expect_error(ErrorCode::internal, parts,
                 [&] { ZipWriter(folder / "a.zip").add("r", announced, chunks_of(content, calls)); });
    expect_error(ErrorCode::internal, parts,
                 [&] { ZipWriter(folder / "a.zip").add_aligned("r", announced, chunks_of(content, calls), 64); });
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(ZipWriter, CountsMoreRecordsThanSixteenBitsHold) {
  const ScratchFolder folder;
  ZipWriter writer(folder / "a.zip");
  for (int i = 0; i < 0x10001; ++i) writer.add(std::to_string(i), 0, [](const ByteSink&) {});
  writer.commit();
  const auto records = parse_zip(slurp(folder / "a.zip"));
  ASSERT_EQ(records.size(), 0x10001u);
  EXPECT_EQ(records.back().name, "65536");
}

}  // namespace
}  // namespace raedit
