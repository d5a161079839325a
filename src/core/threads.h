// Threads that cannot be started are an error like any other, and never the end of the process.
#pragma once

#include <cstddef>
#include <functional>

namespace raedit {

// "WHAT cannot be started". Throws Error(out_of_memory); call it where std::thread threw std::system_error.
[[noreturn]] void raise_no_threads(const char* what, size_t started, int wanted, const char* reason);

// Throws Error(out_of_memory) unless `count` threads, the caller one of them, can run at once. OpenMP's library ends
// the process where it cannot start one, so a team is tried before it is asked for. A number that was tried once is
// not tried again.
void require_threads(int count);

// work(0), ..., work(count - 1), each on a thread of its own. `work` must not throw.
void on_threads(int count, const std::function<void(int)>& work);

}  // namespace raedit
