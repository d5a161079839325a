#include "io/npy.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>

#include "core/check.h"

namespace raedit {
namespace {

// nullptr for what numpy does not have.
const char* numpy_code(DType dtype) {
  switch (dtype) {
    case DType::float64: return "<f8";
    case DType::float32: return "<f4";
    case DType::float16: return "<f2";
    case DType::int64: return "<i8";
    case DType::int32: return "<i4";
    case DType::int16: return "<i2";
    case DType::int8: return "|i1";
    case DType::uint64: return "<u8";
    case DType::uint32: return "<u4";
    case DType::uint16: return "<u2";
    case DType::uint8: return "|u1";
    case DType::bool8: return "|b1";
    case DType::bfloat16:
    case DType::float8_e4m3fn:
    case DType::float8_e5m2: return nullptr;
  }
  return nullptr;
}

Tensor numpy_tensor(const Tensor& tensor) {
  RAEDIT_CHECK(tensor.defined(), {.code = ErrorCode::internal, .what = "an empty tensor handle cannot be written"});
  return numpy_code(tensor.dtype()) != nullptr ? tensor : tensor.to(DType::float32);
}

std::string npy_header(const Tensor& tensor) {
  constexpr size_t kAlignment = 64;
  constexpr size_t kPreamble = 10;  // magic, version, length
  std::string dims;
  for (const int64_t dim : tensor.shape()) dims += fmt::format("{}{}", dims.empty() ? "" : " ", dim) + ",";
  if (tensor.rank() > 1) dims.pop_back();  // (3,) but (3, 4)
  std::string dict =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", numpy_code(tensor.dtype()), dims);
  dict.append((kAlignment - (kPreamble + dict.size() + 1) % kAlignment) % kAlignment, ' ');
  dict += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(dict.size() & 0xff);
  header += static_cast<char>(dict.size() >> 8);
  return header + dict;
}

// Little-endian fields of a zip record.
class Record {
 public:
  Record& u16(uint64_t value) { return field(value, 2); }
  Record& u32(uint64_t value) { return field(value, 4); }
  Record& u64(uint64_t value) { return field(value, 8); }
  Record& text(const std::string& value) {
    bytes_ += value;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  Record& field(uint64_t value, int width) {
    for (int i = 0; i < width; ++i) bytes_ += static_cast<char>(value >> (8 * i) & 0xff);
    return *this;
  }
  std::string bytes_;
};

constexpr uint32_t kFull32 = 0xffffffff;  // "see the zip64 record"
constexpr uint16_t kVersion = 20, kVersion64 = 45;
constexpr uint16_t kDosTime = 0, kDosDate = 0x21;  // 1980-01-01: equal content, equal bytes

}  // namespace

void write_npy(const std::string& path, const Tensor& tensor) {
  const Tensor values = numpy_tensor(tensor);
  AtomicFile file(path);
  file.write(npy_header(values));
  for_each_chunk(values, [&](const void* data, size_t bytes) { file.write(data, bytes); });
  file.commit();
}

void write_npz(const std::string& path, const NamedTensors& tensors) {
  NpzWriter writer(path);
  for (const auto& [name, tensor] : tensors) writer.add(name, tensor);
  writer.commit();
}

NpzWriter::NpzWriter(const std::string& path, uint64_t zip64_from)
    : path_(path), file_(path), zip64_from_(std::min<uint64_t>(zip64_from, kFull32)) {}

void NpzWriter::add(const std::string& name, const Tensor& tensor) {
  RAEDIT_CHECK(!name.empty() && name.size() < 0xfff0 && name.find('\0') == name.npos && names_.insert(name).second,
               {.code = ErrorCode::invalid_argument,
                .what = "an array name is empty, too long, or comes twice",
                .where = path_,
                .found = fmt::format("'{}'", name.substr(0, 200))});
  const Tensor values = numpy_tensor(tensor);
  const std::string header = npy_header(values);
  Entry entry{name + ".npy", 0, header.size() + values.nbytes(), file_.bytes_written()};

  // The checksum stands before the data, so the data is walked twice.
  uLong crc = crc32_z(0, reinterpret_cast<const Bytef*>(header.data()), header.size());
  for_each_chunk(values,
                 [&](const void* data, size_t bytes) { crc = crc32_z(crc, static_cast<const Bytef*>(data), bytes); });
  entry.crc = static_cast<uint32_t>(crc);

  const bool wide = entry.bytes >= zip64_from_;
  Record local;
  local.u32(0x04034b50).u16(wide ? kVersion64 : kVersion).u16(0x0800).u16(0).u16(kDosTime).u16(kDosDate);
  local.u32(entry.crc).u32(wide ? kFull32 : entry.bytes).u32(wide ? kFull32 : entry.bytes);
  local.u16(entry.file_name.size()).u16(wide ? 20 : 0).text(entry.file_name);
  if (wide) local.u16(1).u16(16).u64(entry.bytes).u64(entry.bytes);
  file_.write(local.bytes());
  file_.write(header);
  for_each_chunk(values, [&](const void* data, size_t bytes) { file_.write(data, bytes); });
  entries_.push_back(std::move(entry));
}

void NpzWriter::write_central_directory() {
  const uint64_t begin = file_.bytes_written();
  for (const Entry& entry : entries_) {
    const bool wide = entry.bytes >= zip64_from_, far = entry.offset >= zip64_from_;
    Record extra;
    if (wide || far) extra.u16(1).u16((wide ? 16 : 0) + (far ? 8 : 0));
    if (wide) extra.u64(entry.bytes).u64(entry.bytes);
    if (far) extra.u64(entry.offset);
    const uint16_t version = wide || far ? kVersion64 : kVersion;
    Record record;
    record.u32(0x02014b50).u16(version).u16(version).u16(0x0800).u16(0).u16(kDosTime).u16(kDosDate);
    record.u32(entry.crc).u32(wide ? kFull32 : entry.bytes).u32(wide ? kFull32 : entry.bytes);
    record.u16(entry.file_name.size()).u16(extra.bytes().size());
    record.u16(0).u16(0).u16(0).u32(0);  // no comment, first disk, no attributes
    record.u32(far ? kFull32 : entry.offset).text(entry.file_name).text(extra.bytes());
    file_.write(record.bytes());
  }
  const uint64_t end = file_.bytes_written(), count = entries_.size();
  Record tail;
  const bool wide = begin >= zip64_from_ || end - begin >= zip64_from_ || count >= 0xffff;
  if (wide) {
    tail.u32(0x06064b50).u64(44).u16(kVersion64).u16(kVersion64).u32(0).u32(0);
    tail.u64(count).u64(count).u64(end - begin).u64(begin);
    tail.u32(0x07064b50).u32(0).u64(end).u32(1);
  }
  tail.u32(0x06054b50).u16(0).u16(0).u16(wide ? 0xffff : count).u16(wide ? 0xffff : count);
  tail.u32(wide ? kFull32 : end - begin).u32(wide ? kFull32 : begin).u16(0);
  file_.write(tail.bytes());
}

void NpzWriter::commit() {
  write_central_directory();
  file_.commit();
}

}  // namespace raedit
