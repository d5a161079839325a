// What reader and writer of safetensors share: dtype codes and limits.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "raedit/dtype.h"

namespace raedit::safetensors_format {

inline constexpr size_t kLengthBytes = 8;
inline constexpr size_t kMaxHeaderBytes = 100'000'000;  // the Rust library's limit
inline constexpr const char* kMetadataKey = "__metadata__";

// "BF16", ...
std::string_view code_of(DType dtype);
std::optional<DType> dtype_of(std::string_view code);
// The position of the dtype in the Rust library's enum, which orders tensors in a file.
int order_of(DType dtype);

// What the index of shards may be called: as diffusers does now, and as older versions did.
std::array<std::string, 2> index_names(const std::string& base, const std::string& variant);

// In quotes, control characters escaped and long names cut: fit for a message.
std::string in_quotes(std::string_view name);

}  // namespace raedit::safetensors_format
