// Looks at every value of a pickle that a bounded number of steps reaches: it is a graph and may have circles.
#pragma once

#include <vector>

#include "io/pickle.h"
#include "memory_file.h"

namespace raedit::fuzz {

template <class OnValue>
void walk(const PickleValue& root, OnValue on_value) {
  std::vector<PickleValue> left = {root};
  for (int steps = 0; steps < 2000 && !left.empty(); ++steps) {
    const PickleValue value = left.back();
    left.pop_back();
    (void)value.describe();
    on_value(value);
    switch (value.kind()) {
      case PickleKind::boolean: (void)value.boolean(); break;
      case PickleKind::integer: (void)value.integer(); [[fallthrough]];
      case PickleKind::real: (void)value.real(); break;
      case PickleKind::string: touch(value.string().data(), value.string().size()); break;
      case PickleKind::tensor: (void)value.tensor(); break;
      case PickleKind::dict: {
        (void)value.find("model");
        for (size_t i = 0; i < value.size() && left.size() < 5000; ++i) left.push_back(value.key(i));
        [[fallthrough]];
      }
      case PickleKind::tuple:
      case PickleKind::list:
      case PickleKind::set:
        for (size_t i = 0; i < value.size() && left.size() < 5000; ++i) left.push_back(value.item(i));
        break;
      default: break;
    }
  }
}

}  // namespace raedit::fuzz
