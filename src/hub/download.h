// One file of the hub into the cache.
#pragma once

#include <string>

#include "hub/cache.h"
#include "hub/client.h"

namespace raedit::hub {

// Asks what the file is, downloads its blob unless it is there, and links it into the snapshot of `commit`. Returns its
// path there. Everything that fails leaves at most the blob's .incomplete part behind.
std::string download_file(HubClient& client, const CacheFolder& cache, const Settings& settings,
                          ProgressMeter& progress, const ModelName& name, const std::string& commit,
                          const std::string& path);

}  // namespace raedit::hub
