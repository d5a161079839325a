// What a long run of bytes does between two calls: moves the bar, and asks whether someone pressed Ctrl-C.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "interrupt.h"
#include "progress_bar.h"
#include "raedit/hub.h"

namespace raedit::cli {

class Transfer {
 public:
  Transfer(ProgressBar& bar, const Interrupt& interrupt) : bar_(bar), interrupt_(interrupt) {}

  // False once it should stop. Any thread may call; a bar begins when `what` or `total` changes.
  bool step(const std::string& what, uint64_t done, uint64_t total);
  // As HubOptions::progress: "download model.pt". The result looks at this object.
  std::function<bool(const HubProgress&)> downloads();

 private:
  ProgressBar& bar_;
  const Interrupt& interrupt_;
  std::mutex mutex_;
  std::string what_;
  uint64_t total_ = 0;
};

}  // namespace raedit::cli
