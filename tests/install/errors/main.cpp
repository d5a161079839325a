// A program that only knows the installed package catches what libraedit.so throws, by its type and by its base.
#include <raedit/raedit.h>

#include <cstdio>
#include <stdexcept>

int main() {
  try {
    raedit::RAEDiTPipeline::from_pretrained("no/such/folder");
    return 1;
  } catch (const raedit::Error& error) {
    if (error.code() != raedit::ErrorCode::not_found) return 2;
  }
  try {
    raedit::load_png("no/such/picture.png");
    return 3;
  } catch (const std::runtime_error& error) {
    std::puts(error.what());
  }
  // Thrown here, caught here: the class is whole on this side of the library too.
  try {
    throw raedit::Error({.code = raedit::ErrorCode::cancelled, .what = "stop"});
  } catch (const raedit::Error& error) {
    return error.code() == raedit::ErrorCode::cancelled ? 0 : 4;
  }
}
