#include "quantize_options.h"

#include "core/check.h"
#include "raedit/context.h"
#include "values.h"

namespace raedit::cli {

void add_quantize_options(CLI::App& app, QuantizeOptions& options) {
  app.add_option("--quantize", options.quantize,
                 "int8: matrices of the blocks in 8 bits, on the processor (default none)")
      ->type_name("TYPE")
      ->check(one_of({"none", "int8"}));
  app.add_option("--calibration", options.calibration,
                 "for less error with --quantize int8: what 'raedit calibrate' wrote for this model")
      ->type_name("FILE");
}

void check_quantize_options(const QuantizeOptions& options, const std::string& device) {
  RAEDIT_CHECK(options.on() || options.calibration.empty(), {.code = ErrorCode::invalid_argument,
                                                             .what = "--calibration is for --quantize int8 alone",
                                                             .found = options.calibration});
  RAEDIT_CHECK(!options.on() || Device::from_name(device).type == DeviceType::cpu,
               {.code = ErrorCode::invalid_argument,
                .what = "--quantize int8 runs on the processor alone",
                .where = "--device",
                .found = device,
                .expected = "cpu"});
}

std::string dtype_text(const std::string& dtype, const QuantizeOptions& options) {
  return options.on() ? dtype + ", " + options.quantize + " matrices" : dtype;
}

}  // namespace raedit::cli
