// Checks on option values that CLI11 runs while parsing, before any file is touched. Their messages end up as
// "raedit: error: --steps: must be 1 or more (found 0)".
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace raedit::cli {

CLI::Validator whole_number(int64_t min, int64_t max = std::numeric_limits<int64_t>::max());
CLI::Validator number(double min, double max = std::numeric_limits<double>::infinity());
// One of a few words.
CLI::Validator one_of(std::vector<std::string> words);
// cpu, cuda or cuda:N; whether the machine has it shows later.
CLI::Validator device_name();

// "5GB", "500 MiB" or plain bytes, as a validator and as a number. Units of 1000 unless they have an i. parse_bytes is
// for text that byte_count() let pass.
CLI::Validator byte_count();
uint64_t parse_bytes(std::string_view text);

// "repo_or_path" -> "--repo_or_path,--repo-or-path": the name that upstream's scripts know, and the same as the options
// of other commands are spelled. OneSpelling shows the first alone.
std::string both_spellings(const std::string& name);

class OneSpelling : public CLI::Formatter {
 public:
  std::string make_option_name(const CLI::Option* option, bool is_positional) const override;
};

// An option without a value: --json=3 is a mistake. `name` may be several: "--a_b,--a-b".
void add_switch(CLI::App& app, const std::string& name, bool& on, const std::string& help);

}  // namespace raedit::cli
