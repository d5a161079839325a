#include "io/npy.h"

#include <fmt/format.h>

#include "core/check.h"
#include "io/files.h"

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

void NpzWriter::add(const std::string& name, const Tensor& tensor) {
  RAEDIT_CHECK(!name.empty() && name.size() < 0xfff0 && name.find('\0') == name.npos && names_.insert(name).second,
               {.code = ErrorCode::invalid_argument,
                .what = "an array name is empty, too long, or comes twice",
                .where = path_,
                .found = fmt::format("'{}'", name.substr(0, 200))});
  const Tensor values = numpy_tensor(tensor);
  const std::string header = npy_header(values);
  zip_.add(name + ".npy", header.size() + values.nbytes(), [&](const ByteSink& sink) {
    sink(header.data(), header.size());
    for_each_chunk(values, sink);
  });
}

}  // namespace raedit
