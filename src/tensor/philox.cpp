#include "tensor/philox.h"

#include <cstddef>

namespace raedit {
namespace {

constexpr int kRounds = 10;
constexpr uint64_t kMultipliers[2] = {0xD2511F53, 0xCD9E8D57};
constexpr uint32_t kWeyl[2] = {0x9E3779B9, 0xBB67AE85};  // golden ratio, sqrt(3) - 1

}  // namespace

PhiloxBlock philox4x32_10(PhiloxBlock counter, PhiloxKey key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t even = kMultipliers[0] * counter[0], odd = kMultipliers[1] * counter[2];
    const auto high = [](uint64_t product) { return static_cast<uint32_t>(product >> 32); };
    counter = {high(odd) ^ counter[1] ^ key[0], static_cast<uint32_t>(odd), high(even) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(even)};
    for (size_t i = 0; i < key.size(); ++i) key[i] += kWeyl[i];
  }
  return counter;
}

}  // namespace raedit
