// Models by name: org/name[@revision], found in the local Hugging Face cache or downloaded into it, in the layout that
// huggingface_hub also finds. Environment as there: HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HF_ENDPOINT, HF_TOKEN,
// HF_TOKEN_PATH, HF_HUB_OFFLINE, and the usual proxy variables.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "raedit/export.h"

namespace raedit {

struct HubProgress {
  std::string file;  // its path in the repository
  uint64_t done = 0;
  uint64_t total = 0;  // bytes; 0 when the server does not say
};

struct HubOptions {
  std::string cache_dir = {};  // default: the environment's
  bool offline = false;        // also HF_HUB_OFFLINE=1: only what is in the cache
  std::string endpoint = {};   // default: HF_ENDPOINT, or https://huggingface.co
  std::string token = {};      // default: HF_TOKEN, or the file that `huggingface-cli login` wrote
  // Called from the downloading thread, when a file begins and ends and several times a second between; `file` is ""
  // while the hub is asked for its list. Return false to cancel: Error(cancelled), and the part that is there is taken
  // up again next time.
  std::function<bool(const HubProgress&)> progress = {};
  int retries = 4;  // of one file, with growing pauses
  double first_pause_seconds = 1.0;
};

// Whether `name` is the name of a repository and not a path: org/name[@revision], and no such file or folder here.
RAEDIT_API bool is_model_name(const std::string& name);

// The folder of the snapshot in the cache, with every file that matches one of `patterns` in it (fnmatch: "*.json",
// "vae/*" - '*' takes '/' too; empty: all files). Downloads what is missing unless offline. A branch is asked for its
// newest commit; when the hub cannot be reached, what is in the cache has to do. Throws Error(not_found) with what to
// do when a name is unknown or, offline, not in the cache; Error(io) for network and disk.
RAEDIT_API std::string download_model(const std::string& name, const std::vector<std::string>& patterns = {},
                                      const HubOptions& options = {});

}  // namespace raedit
