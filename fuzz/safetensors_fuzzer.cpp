// Any bytes as a safetensors file: the outcome is tensors, all of whose bytes can be read, or an Error.
#include "io/safetensors.h"
#include "memory_file.h"
#include "raedit/error.h"

using namespace raedit;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const SafetensorsFile file = SafetensorsFile::open(fuzz::memory_file(data, size));
    for (const std::string& name : file.names()) {
      const Tensor tensor = file.tensor(name);
      if (tensor.nbytes() != file.info(name).nbytes) __builtin_trap();
      fuzz::touch(tensor.raw(), tensor.nbytes());
      file.drop_pages(name);
    }
    (void)file.metadata();
  } catch (const Error&) {
  }
  return 0;
}
