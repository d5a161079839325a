// guarded(fn): the public entry points run in it, so that every failure is a raedit::Error, memory included.
#pragma once

#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "core/check.h"

namespace raedit {

template <class Fn>
auto guarded(const char* where, Fn&& fn) {
  try {
    return std::forward<Fn>(fn)();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    raise({.code = ErrorCode::out_of_memory, .what = "out of memory", .where = where});
  } catch (const std::length_error&) {
    raise({.code = ErrorCode::out_of_memory, .what = "more elements than memory can hold", .where = where});
  } catch (const std::system_error& error) {  // of std::filesystem and std::thread
    raise({.code = ErrorCode::io, .what = error.what(), .where = where});
  } catch (const std::exception& error) {
    raise({.code = ErrorCode::internal, .what = error.what(), .where = where});
  }
}

}  // namespace raedit
