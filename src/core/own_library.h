// Parts of the program that are libraries of their own, opened when they are needed: where their files may lie.
#pragma once

#include <string>
#include <vector>

namespace raedit {

// What dlopen is to try, in this order: the file that the environment's `variable` names, and then it alone; `library`
// in the folder of the library or program that this code is in, or in the lib/ beside it; `library` wherever the system
// looks.
std::vector<std::string> own_library_files(const char* library, const char* variable);

}  // namespace raedit
