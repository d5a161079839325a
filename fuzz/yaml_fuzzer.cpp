// Any text as YAML with OmegaConf's interpolations: the outcome is JSON that can be written out, or an Error.
#include "io/yaml.h"
#include "memory_file.h"
#include "raedit/error.h"

using namespace raedit;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const Json value = parse_yaml({reinterpret_cast<const char*>(data), size}, "fuzz");
    const std::string text = value.dump();
    fuzz::touch(text.data(), text.size());
  } catch (const Error&) {
  }
  return 0;
}
