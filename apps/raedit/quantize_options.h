// --quantize and --calibration, which several commands have.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace raedit::cli {

struct QuantizeOptions {
  std::string quantize = "none";
  std::string calibration;

  bool on() const { return quantize != "none"; }
};

void add_quantize_options(CLI::App& app, QuantizeOptions& options);
// What only the options together can get wrong: before any file is opened. Throws Error(invalid_argument).
void check_quantize_options(const QuantizeOptions& options, const std::string& device);
// "bfloat16", or "bfloat16, int8 matrices"
std::string dtype_text(const std::string& dtype, const QuantizeOptions& options);

}  // namespace raedit::cli
