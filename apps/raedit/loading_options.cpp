#include "loading_options.h"

#include "print_stderr.h"
#include "values.h"

namespace raedit::cli {

void add_dtype_option(CLI::App& app, LoadingOptions& options) {
  app.add_option("--dtype", options.dtype, "float32 or bfloat16 (default float32)")
      ->type_name("TYPE")
      ->check(one_of({"float32", "bfloat16"}));
}

void add_device_option(CLI::App& app, LoadingOptions& options) {
  app.add_option("--device", options.device, "cpu (default), cuda or cuda:N")->type_name("NAME")->check(device_name());
}

void add_threads_option(CLI::App& app, LoadingOptions& options) {
  app.add_option("--threads", options.threads, "threads to use; 0 is all (default 0)")
      ->type_name("N")
      ->check(whole_number(0, 4096));
}

void add_packed_cache_option(CLI::App& app, LoadingOptions& options) {
  app.add_option("--packed-cache", options.packed_cache,
                 "keep packed weights in this folder, and map them the next time (default:\nRAEDIT_PACKED_CACHE, or "
                 "none)")
      ->type_name("DIR");
}

LoadOptions load_options(const LoadingOptions& options) {
  LoadOptions load;
  load.dtype = dtype_from_name(options.dtype);
  load.device = Device::from_name(options.device);
  load.threads = options.threads;
  load.packed_cache = options.packed_cache;
  load.note = [](const std::string& text) { print_stderr("note: " + text + "\n"); };
  if (options.quantize.on()) {
    load.quantization = Quantization::int8;
    load.calibration = options.quantize.calibration;
  }
  return load;
}

}  // namespace raedit::cli
