// Any bytes as a torch archive, zip or legacy: the outcome is values and tensors, all of whose bytes can be read, or an
// Error.
#include <zlib.h>

#include <cstring>

#include "io/torch_archive.h"
#include "raedit/error.h"
#include "walk.h"

using namespace raedit;

namespace {

constexpr size_t kMaxTensorBytes = size_t{1} << 20;  // a large one takes time to read and shows nothing new

uint64_t field(const uint8_t* data, size_t width) {
  uint64_t value = 0;
  for (size_t i = 0; i < width; ++i) value |= static_cast<uint64_t>(data[i]) << (8 * i);
  return value;
}

// Makes the checksums right again, so that a changed record is read and not only refused.
void repair_checksums(uint8_t* data, size_t size) {
  constexpr size_t kCentral = 46, kLocal = 30, kEnd = 22;
  if (size < kEnd || field(data + size - kEnd, 4) != 0x06054b50) return;
  size_t at = field(data + size - kEnd + 16, 4);
  while (at < size && size - at > kCentral && field(data + at, 4) == 0x02014b50) {
    const size_t bytes = field(data + at + 20, 4), local = field(data + at + 42, 4);
    const bool stored = field(data + at + 10, 2) == 0;
    if (stored && local < size && size - local > kLocal) {
      const size_t begin = local + kLocal + field(data + local + 26, 2) + field(data + local + 28, 2);
      if (begin <= size && bytes <= size - begin) {
        const auto crc = static_cast<uint32_t>(::crc32(0, data + begin, static_cast<uInt>(bytes)));
        std::memcpy(data + at + 16, &crc, sizeof(crc));
        if ((field(data + local + 6, 2) & 8) == 0) std::memcpy(data + local + 14, &crc, sizeof(crc));
      }
    }
    at += kCentral + field(data + at + 28, 2) + field(data + at + 30, 2) + field(data + at + 32, 2);
  }
}

void read(const Tensor& tensor, const TensorInfo& info) {
  if (tensor.shape() != info.shape || tensor.dtype() != info.dtype) __builtin_trap();
  const Tensor numbers = tensor.contiguous();
  fuzz::touch(numbers.raw(), numbers.nbytes());
}

void read_tensor(const TorchArchive& archive, const PickleValue& value) {
  const TensorInfo info = archive.info(value);
  if (info.nbytes <= kMaxTensorBytes) read(archive.tensor(value), info);
}

void read_state_dict(const TorchArchive& archive, const PickleValue& value) {
  const auto weights = state_dict_of(archive, value, "fuzz");
  for (const std::string& name : weights->names()) {
    const TensorInfo& info = weights->info(name);
    if (info.nbytes > kMaxTensorBytes) continue;
    read(weights->tensor(name), info);
    weights->drop_pages(name);
  }
}

}  // namespace

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  const size_t mutated = LLVMFuzzerMutate(data, size, max_size);
  if (seed % 4 != 0) repair_checksums(data, mutated);
  return mutated;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string path = fuzz::memory_file(data, size);
    (void)TorchArchive::looks_like_one(path);
    const TorchArchive archive = TorchArchive::open(path);
    (void)archive.format();
    fuzz::walk(archive.root(), [&](const PickleValue& value) {
      try {
        if (value.kind() == PickleKind::tensor) read_tensor(archive, value);
        if (value.is_dict()) read_state_dict(archive, value);
      } catch (const Error&) {
      }
    });
  } catch (const Error&) {
  }
  return 0;
}
