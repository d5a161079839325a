// The checkpoint-N folders of a run: which are there, which is the last, and which may go.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace raedit::train {

struct CheckpointFolder {
  int64_t step = 0;
  std::string path;
};

std::string checkpoint_path(const std::string& output_dir, int64_t step);

// Whole ones, by step: folders of that name with a trainer_state.json (a folder appears whole or not at all). None for
// a folder that is not there.
std::vector<CheckpointFolder> list_checkpoints(const std::string& output_dir);

// "latest", the path of one, or its name in output_dir. Nothing for "latest" where there is none. Throws
// Error(not_found) for another that is not there, naming those that are.
std::optional<CheckpointFolder> find_checkpoint(const std::string& output_dir, const std::string& name);

// Removes the oldest until `limit` are left; each is renamed first, so that none is ever seen half removed.
void prune_checkpoints(const std::string& output_dir, int64_t limit);

// What runs that were killed have left half written or half removed.
void remove_leftovers(const std::string& output_dir);

}  // namespace raedit::train
