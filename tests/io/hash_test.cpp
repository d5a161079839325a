// Digests against the standards' own examples, and against each other in pieces.
#include "io/hash.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <random>
#include <string>

#include "io/crc32.h"
#include "io/io_test_util.h"

namespace raedit {
namespace {

using test::expect_error;
using test::ScratchFolder;
using test::spit;

std::string random_bytes(size_t count, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(engine());
  return bytes;
}

template <class T>
std::string hex_of(T digest, std::string_view text) {
  digest.update(text);
  return digest.hex();
}

TEST(Crc32, GivesTheStandardsExample) {
  EXPECT_EQ(crc32(0, "123456789", 9), 0xcbf43926u);
  EXPECT_EQ(crc32(crc32(0, "1234", 4), "56789", 5), 0xcbf43926u);
}

TEST(Crc32, OfNumbersIsThatOfACopyInTheirType) {
  constexpr int64_t kRows = 5, kColumns = 123'457, kPiece = 1 << 18;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  const Tensor tensor = Tensor::empty({kRows, kColumns}, DType::float32);
  for (int64_t i = 0; i < tensor.numel(); ++i) tensor.data<float>()[i] = normal(engine);
  const Tensor halves = tensor.to(DType::bfloat16);
  std::vector<uint32_t> expected;
  for (int64_t i = 0; i < halves.numel(); i += kPiece)
    expected.push_back(
        crc32(0, halves.data<bfloat16>() + i, 2 * static_cast<size_t>(std::min(kPiece, halves.numel() - i))));
  ASSERT_EQ(expected.size(), 3u);
  for (const int threads : {1, 4}) {
    for (const Tensor& copy : {tensor, halves, tensor.to(DType::float64), tensor.transpose(0, 1).contiguous()}) {
      const Tensor same = copy.dim(0) == kRows ? copy : copy.transpose(0, 1);
      EXPECT_EQ(crc32_of_numbers(same, DType::bfloat16, threads), expected) << name_of(copy.dtype()) << " " << threads;
    }
  }
  EXPECT_NE(crc32_of_numbers(tensor, DType::float32, 2), expected);
  for (const int64_t at : {int64_t{0}, int64_t{kPiece}, tensor.numel() - 1}) {
    tensor.data<float>()[at] += 1;
    EXPECT_NE(crc32_of_numbers(tensor, DType::bfloat16, 2), expected) << at;
    tensor.data<float>()[at] -= 1;
  }
}

TEST(Hash, GivesTheStandardsExamples) {
  EXPECT_EQ(hex_of(Sha256(), ""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hex_of(Sha256(), "abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hex_of(Sha1(), "abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
  // echo 'test content' | git hash-object --stdin, from git's own book; and the empty blob.
  EXPECT_EQ(hex_of(GitBlobSha1(13), "test content\n"), "d670460b4b4aece5915caf5c68d12f560a9fe3e4");
  EXPECT_EQ(hex_of(GitBlobSha1(0), ""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
}

TEST(Hash, DoesNotDependOnThePieces) {
  const std::string bytes = random_bytes(10007, 1);
  Sha256 digest;
  for (size_t at = 0, step = 1; at < bytes.size(); at += step, step = step * 2 + 1)
    digest.update(std::string_view(bytes).substr(at, step));
  EXPECT_EQ(digest.hex(), hex_of(Sha256(), bytes));
  EXPECT_EQ(digest.hex(), hex_of(Sha256(), bytes)) << "asking does not end it";
  digest.update("more");
  EXPECT_EQ(digest.hex(), hex_of(Sha256(), bytes + "more"));
}

TEST(Hash, ReadsFilesOfSeveralPieces) {
  const ScratchFolder scratch;
  for (const size_t count : {size_t{0}, size_t{1}, size_t{1} << 20, (size_t{5} << 19) + 3}) {
    const std::string bytes = random_bytes(count, count);
    spit(scratch / "file", bytes);
    uint64_t last = 0;
    const auto progress = [&](uint64_t done, uint64_t total) {
      EXPECT_EQ(total, count);
      EXPECT_LE(done - last, uint64_t{1} << 20);
      last = done;
      return true;
    };
    EXPECT_EQ(sha256_of_file(scratch / "file", progress), hex_of(Sha256(), bytes));
    EXPECT_EQ(last, count);
    EXPECT_EQ(git_blob_sha1_of_file(scratch / "file"), hex_of(GitBlobSha1(count), bytes));
  }
}

TEST(Hash, CanBeCancelledAndSaysWhatItCannotRead) {
  const ScratchFolder scratch;
  spit(scratch / "file", random_bytes(size_t{3} << 20, 2));
  int calls = 0;
  expect_error(ErrorCode::cancelled, {scratch / "file"},
               [&] { sha256_of_file(scratch / "file", [&](uint64_t, uint64_t) { return ++calls < 2; }); });
  EXPECT_EQ(calls, 2);
  expect_error(ErrorCode::not_found, {scratch / "none"}, [&] { sha256_of_file(scratch / "none"); });
  expect_error(ErrorCode::io, {scratch.path(), "folder"}, [&] { sha256_of_file(scratch.path()); });
  ASSERT_EQ(::mkfifo((scratch / "pipe").c_str(), 0600), 0);
  expect_error(ErrorCode::io, {scratch / "pipe", "regular"}, [&] { git_blob_sha1_of_file(scratch / "pipe"); });
}

}  // namespace
}  // namespace raedit
