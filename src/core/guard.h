// guarded(fn): the public entry points run in it, so that every failure is a raedit::Error, memory included.
#pragma once

#include <new>
#include <stdexcept>
#include <utility>

#include "core/check.h"

namespace raedit {

template <class Fn>
auto guarded(const char* where, Fn&& fn) {
  try {
    return std::forward<Fn>(fn)();
  } catch (const std::bad_alloc&) {
    raise({.code = ErrorCode::out_of_memory, .what = "out of memory", .where = where});
  } catch (const std::length_error&) {
    raise({.code = ErrorCode::out_of_memory, .what = "more elements than memory can hold", .where = where});
  }
}

}  // namespace raedit
