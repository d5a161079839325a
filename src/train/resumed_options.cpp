#include "train/resumed_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"
#include "train/stage2_config.h"

namespace raedit::train {
namespace {

std::string shown(const Json& options, const std::string& name) {
  return options.contains(name) ? options.at(name).dump() : "unset";
}

}  // namespace

std::vector<std::string> changed_options(const Json& then, const Json& now) {
  Stage2Options any;
  std::vector<std::string> changed, kept;
  for (const NamedOption& option : named_options(any)) {
    const std::string before = shown(then, option.name), after = shown(now, option.name);
    if (before == after) continue;
    if (option.on_resume == OnResume::told)
      changed.push_back(fmt::format("{} {} -> {}", option.name, before, after));
    else if (now.contains(option.name))
      kept.push_back(fmt::format("{} {}", option.name, after));
  }
  std::sort(changed.begin(), changed.end());
  std::sort(kept.begin(), kept.end());
  std::vector<std::string> lines;
  if (!changed.empty()) lines.push_back("goes on with other options than before: " + join(changed));
  if (!kept.empty()) lines.push_back("not taken, for the run stays with what it began with: " + join(kept));
  return lines;
}

}  // namespace raedit::train
