// What classes are called: the comma-separated names of a label, and the class that a name means.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace raedit {

// "tench, Tinca tinca" gives two names for one id. Of several equal names the last id wins.
std::map<std::string, int64_t> names_of(const std::map<int64_t, std::string>& id2label);

// Throws Error(invalid_argument) for an unknown name, with the closest known ones.
std::vector<int64_t> ids_of_names(const std::map<std::string, int64_t>& known, const std::vector<std::string>& names);

}  // namespace raedit
