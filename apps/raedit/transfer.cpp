#include "transfer.h"

#include <filesystem>

namespace raedit::cli {

bool Transfer::step(const std::string& what, uint64_t done, uint64_t total) {
  const std::lock_guard lock(mutex_);
  if (what != what_ || total != total_) bar_.begin(what, static_cast<int64_t>(total), ProgressBar::Unit::bytes);
  what_ = what;
  total_ = total;
  bar_.step(static_cast<int64_t>(done));
  return !interrupt_.token().cancelled();
}

std::function<bool(const HubProgress&)> Transfer::downloads() {
  return [this](const HubProgress& p) {
    if (p.file.empty()) return step("ask the hub", 0, 0);
    return step("download " + std::filesystem::path(p.file).filename().string(), p.done, p.total);
  };
}

}  // namespace raedit::cli
