// What is in a folder, read to its end or an error: an iterator that stops half-way looks like a short folder.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace raedit {

// Throws Error(not_found) for a folder that is not there, Error(io) for one that cannot be read. In no order.
std::vector<std::filesystem::directory_entry> folder_entries(const std::string& folder);

}  // namespace raedit
