// A fuzzer's input as a file: readers of ours map files by their path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace raedit::fuzz {

// The path of a file in memory with this content; valid until the next call.
std::string memory_file(const uint8_t* data, size_t size);

// Touches every byte, so that the sanitizer sees what is not ours.
void touch(const void* data, size_t bytes);

}  // namespace raedit::fuzz
