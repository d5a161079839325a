// Any bytes as a pickle: the outcome is a value or an Error.
#include "io/pickle.h"
#include "raedit/error.h"
#include "walk.h"

using namespace raedit;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string bytes(reinterpret_cast<const char*>(data), size);
    const ParsedPickle pickle = parse_pickle(bytes, "fuzz", 7);
    if (pickle.bytes > size) __builtin_trap();
    for (const PickledStorage& storage : pickle.storages) fuzz::touch(storage.key.data(), storage.key.size());
    fuzz::walk(pickle.root, [](const PickleValue&) {});
  } catch (const Error&) {
  }
  return 0;
}
