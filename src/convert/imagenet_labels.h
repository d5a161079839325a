// The 1000 classes of ImageNet-1k (ILSVRC 2012) in the order of their ids.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace raedit::convert {

inline constexpr int64_t kImageNetClasses = 1000;

// 0 -> "tench, Tinca tinca". Source and licence of the list: imagenet_labels.cpp.
std::map<int64_t, std::string> imagenet_1k_labels();

}  // namespace raedit::convert
