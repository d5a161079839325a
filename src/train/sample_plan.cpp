#include "train/sample_plan.h"

#include <numeric>

#include "core/check.h"
#include "raedit/generator.h"

namespace raedit::train {
namespace {

uint64_t splitmix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

enum Stream : uint64_t { kOrder, kPicture, kNoise };

// Fisher and Yates'.
std::vector<uint32_t> shuffled(int64_t count, uint64_t seed) {
  std::vector<uint32_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0u);
  Generator generator(seed);
  for (uint64_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[generator.random64() % left]);
  return order;
}

}  // namespace

uint64_t mix_seed(uint64_t seed, uint64_t a, uint64_t b) {
  return splitmix(splitmix(splitmix(seed) ^ a) ^ b);
}

Sample SamplePlan::at(int64_t position) const {
  RAEDIT_CHECK(position >= 0 && pictures_ > 0,
               {.code = ErrorCode::internal, .what = "there is no such sample", .where = "SamplePlan"});
  const int64_t number = position / pictures_;
  const auto at = static_cast<uint64_t>(position);
  Sample sample;
  {
    const std::lock_guard lock(mutex_);
    Epoch& epoch = epochs_[number % 2];
    if (epoch.number != number) {
      epoch.order = shuffled(pictures_, mix_seed(seed_, kOrder, static_cast<uint64_t>(number)));
      epoch.number = number;
    }
    sample.picture = epoch.order[static_cast<size_t>(position % pictures_)];
  }
  sample.picture_seed = mix_seed(seed_, kPicture, at);
  sample.noise_seed = mix_seed(seed_, kNoise, at);
  return sample;
}

}  // namespace raedit::train
