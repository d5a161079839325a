// Checks on option values that CLI11 runs while parsing, before any file is touched. Their messages end up as
// "raedit: error: --steps: must be 1 or more (found 0)".
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace raedit::cli {

CLI::Validator whole_number(int64_t min, int64_t max = std::numeric_limits<int64_t>::max());
CLI::Validator number(double min, double max = std::numeric_limits<double>::infinity());
// One of a few words.
CLI::Validator one_of(std::vector<std::string> words);

// An option without a value: --json=3 is a mistake.
void add_switch(CLI::App& app, const std::string& name, bool& on, const std::string& help);

}  // namespace raedit::cli
