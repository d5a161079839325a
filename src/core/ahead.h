// Work done ahead of who needs it, by threads of its own, and handed out in order.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "core/threads.h"

namespace raedit {

template <class T>
class Ahead {
 public:
  // make(k) for k = 0, 1, 2, ..., on any of `workers` threads, at most `depth` results waiting or in the making. With
  // no workers, next() makes it itself. `begin` is the first call of every worker; it must not throw.
  Ahead(int workers, int depth, std::function<T(int64_t)> make, const std::function<void()>& begin = {})
      : make_(std::move(make)), depth_(depth) {
    try {
      for (int i = 0; i < workers; ++i)
        threads_.emplace_back([this, begin] {
          if (begin) begin();
          work();
        });
    } catch (const std::system_error& error) {
      const size_t started = threads_.size();
      end();
      raise_no_threads("threads that work ahead", started, workers, error.what());
    } catch (...) {  // no memory for another one
      end();
      throw;
    }
  }
  ~Ahead() { end(); }
  Ahead(const Ahead&) = delete;
  Ahead& operator=(const Ahead&) = delete;

  // Throws what make() threw for this one.
  T next() {
    if (threads_.empty()) return make_(taken_++);
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [&] { return done_.contains(taken_); });
    Result result = std::move(done_.at(taken_));
    done_.erase(taken_++);
    lock.unlock();
    room_.notify_one();
    if (result.error) std::rethrow_exception(result.error);
    return std::move(*result.value);
  }

 private:
  struct Result {
    std::optional<T> value;
    std::exception_ptr error;
  };

  void end() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    room_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void work() {
    for (std::unique_lock lock(mutex_);;) {
      room_.wait(lock, [&] { return stop_ || begun_ < taken_ + depth_; });
      if (stop_) return;
      const int64_t k = begun_++;
      lock.unlock();
      Result result;
      try {
        result.value = make_(k);
      } catch (...) {
        result.error = std::current_exception();
      }
      lock.lock();
      done_.emplace(k, std::move(result));
      ready_.notify_one();
    }
  }

  const std::function<T(int64_t)> make_;
  const int64_t depth_;
  std::mutex mutex_;
  std::condition_variable ready_, room_;
  std::map<int64_t, Result> done_;
  int64_t begun_ = 0, taken_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace raedit
