// One conversion, planned: what is to be written where. run() writes all of it or nothing.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "convert/inputs.h"
#include "convert/model_writer.h"
#include "raedit/convert.h"
#include "raedit/flow_match_euler_discrete.h"

namespace raedit::convert {

inline constexpr const char* kGuideFolder = "guide_transformer";

struct Conversion {
  std::vector<std::pair<std::string, ModelPlan>> models;  // by subfolder; "" is the folder itself
  std::optional<FlowMatchEulerDiscreteSchedulerConfig> scheduler;
  std::string scheduler_subfolder = "scheduler";
  bool is_pipeline = false;  // has a model_index.json
  std::map<int64_t, std::string> id2label;
  Json metadata;
  std::vector<std::string> checkpoints;  // files to record, with their digests
  std::vector<std::string> notes;
};

ConvertReport run(const Conversion& conversion, const ConvertOutput& output);

// Throws Error(invalid_argument) for an output that cannot be: no path, a dtype that weights are not written in.
void check_output(const ConvertOutput& output);
// Throws Error(io) when the disk of `path` has less than `bytes` free.
void check_space(const std::string& path, uint64_t bytes);

}  // namespace raedit::convert
