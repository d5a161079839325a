// What main() knows of a subcommand: its CLI11 app, and what to run once the line has been parsed. Each add_* lives in
// the file of its name.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace raedit::cli {

struct Command {
  CLI::App* app = nullptr;
  std::function<int()> run;  // the exit code; failures are thrown
};

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

Command add_generate(CLI::App& program);
Command add_labels(CLI::App& program);
Command add_info(CLI::App& program);
Command add_reconstruct(CLI::App& program);
Command add_convert(CLI::App& program);
Command add_compare(CLI::App& program);
Command add_calibrate(CLI::App& program);
Command add_reuse(CLI::App& program);
Command add_bench(CLI::App& program);
Command add_stats(CLI::App& program);
Command add_train(CLI::App& program);

}  // namespace raedit::cli
