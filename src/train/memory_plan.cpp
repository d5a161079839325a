// Source of the files that available_memory() reads: the kernel's Documentation/filesystems/proc.rst,
// admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/memory.rst.
#include "train/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>

#include "backend/counting/counting_kernels.h"
#include "backend/device/device.h"
#include "core/check.h"
#include "core/text.h"
#include "models/checkpoint.h"
#include "models/rae_dit_transformer.h"
#include "tensor/arena.h"
#include "train/stage2_step.h"

namespace raedit::train {
namespace {

// What a run of the counting device has shown, in bytes.
struct Counts {
  int64_t weights = 0;  // numbers, with those of tables that are not trained
  int64_t trained = 0;
  uint64_t rounded = 0, batch = 0, activations = 0, kept = 0, work = 0;
};

Stage2Batch untouchable_batch(const RAEDiT2DModelConfig& config, int64_t batch,
                              const std::shared_ptr<const backend::CountingMemory>& memory) {
  const Shape latents{batch, config.in_channels, config.sample_size, config.sample_size};
  const Tensor labels = zeros_on(memory, {2 * batch});
  return {zeros_on(memory, latents), zeros_on(memory, latents), zeros_on(memory, {batch}),
          Tensor(labels.storage(), 0, {batch}, DType::int64), zeros_on(memory, {batch})};
}

Counts run(const RAEDiT2DModelConfig& config, const MemoryPlanOptions& options) {
  const auto memory = std::make_shared<backend::CountingMemory>();
  const auto work = std::make_shared<Arena>(memory);
  Context ctx = context_on(backend::make_counting_kernels(memory, work, options.own_memory));
  models::RaeDitTransformer model(config);
  model.dtype = options.bf16 ? DType::bfloat16 : DType::float32;
  Counts counts;
  for (const auto& [name, p] : models::named_parameters(model)) {
    const Tensor value = zeros_on(memory, p->shape);
    p->value = p->role == nn::Parameter::Role::matrix ? value.reshape({p->shape[0], -1}) : value;
    counts.weights += p->shape.numel();
  }
  Stage2StepOptions step_options;  // averages play no part in what the model does
  step_options.checkpointing = options.gradient_checkpointing;
  Stage2Step training(ctx.kernels(), model, step_options);
  std::set<uint64_t> seen;
  for (const Tensor& parameter : training.parameters()) {
    counts.trained += parameter.numel();
    if (!seen.insert(parameter.storage()->id()).second) continue;
    counts.rounded += (parameter.storage()->bytes() / sizeof(float) + 1) / 2 * sizeof(float);  // as the optimizer does
  }

  const Stage2Batch batch = untouchable_batch(config, options.batch, memory);
  for (const Tensor& part : {batch.latents, batch.noise, batch.sigmas, batch.class_labels, batch.weights})
    counts.batch += part.storage()->bytes();
  // The arena hands out larger blocks than asked for where it has some left from the step before.
  constexpr int kSteps = 3;
  for (int step = 0; step < kSteps; ++step) training.accumulate(ctx, batch);
  counts.activations = ctx.arena().peak_bytes();
  counts.kept = ctx.arena().reserved_bytes() - counts.activations;
  counts.work = work->reserved_bytes();
  return counts;
}

std::string millions(int64_t count) {
  return fmt::format("{:.1f} M", static_cast<double>(count) * 1e-6);
}

std::string joined(std::initializer_list<std::pair<bool, const char*>> flags) {
  std::vector<std::string> wanted;
  for (const auto& [useful, flag] : flags)
    if (useful) wanted.emplace_back(flag);
  return join(wanted);
}

// ---- available_memory()

std::optional<uint64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  file >> text;
  return number_of<uint64_t>(text);
}

// The number behind `key` in lines of "key number ...".
std::optional<uint64_t> number_behind(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string first, second;
    if (words >> first >> second && first == key) return number_of<uint64_t>(second);
  }
  return std::nullopt;
}

// The least that is left in the group or in one of those that it is in. A group is not found where a container sees
// its own part of the tree alone, but then its ancestors are, up to the root of what it sees.
uint64_t rest_of_groups(const std::string& tree, std::string group, const char* limit_file, const char* usage_file,
                        const char* cache_key) {
  uint64_t rest = kUnknownMemory;
  while (true) {
    const std::string folder = tree + group + "/";
    const auto limit = number_in(folder + limit_file), usage = number_in(folder + usage_file);
    if (limit && usage) {
      // Pages of files that were not used for a while go when memory is wanted.
      const uint64_t cache = number_behind(folder + "memory.stat", cache_key).value_or(0);
      const uint64_t used = *usage - std::min(*usage, cache);
      rest = std::min(rest, *limit - std::min(*limit, used));
    }
    if (group.empty()) return rest;
    group.erase(group.find_last_of('/'));
  }
}

// The group behind lines of "number:controllers:/group".
uint64_t rest_of_all_groups(const std::string& root) {
  uint64_t rest = kUnknownMemory;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    std::string group = line.substr(second + 1);
    while (!group.empty() && group.back() == '/') group.pop_back();
    if (!group.empty() && group.front() != '/') continue;
    if (controllers == ",,")
      rest = std::min(rest,
                      rest_of_groups(root + "/sys/fs/cgroup", group, "memory.max", "memory.current", "inactive_file"));
    else if (controllers.find(",memory,") != controllers.npos)
      rest = std::min(rest, rest_of_groups(root + "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
                                           "memory.usage_in_bytes", "total_inactive_file"));
  }
  return rest;
}

}  // namespace

MemoryPlan plan_memory(const RAEDiT2DModelConfig& config, const MemoryPlanOptions& options) {
  for (const auto& [name, value] :
       {std::pair{"batch", options.batch}, {"zero1_ranks", static_cast<int64_t>(options.zero1_ranks)}})
    RAEDIT_CHECK(value >= 1, {.code = ErrorCode::invalid_argument,
                              .what = fmt::format("{} is out of range", name),
                              .where = "plan_memory",
                              .found = fmt::to_string(value),
                              .expected = "1 or more"});
  const Counts counts = run(config, options);
  const auto floats = [](int64_t count) { return static_cast<uint64_t>(count) * sizeof(float); };
  const auto ranks = static_cast<int64_t>(options.zero1_ranks);
  const std::string trained = millions(counts.trained) + " x float32";
  const std::string share = ranks > 1 ? fmt::format(" / {} ranks", ranks) : "";
  const std::string smaller_batch = "--train-batch-size with --gradient-accumulation-steps";

  MemoryPlan plan;
  plan.parts.push_back({"weights", floats(counts.weights), millions(counts.weights) + " x float32", ""});
  plan.parts.push_back({"gradients", floats(counts.trained), trained, ""});
  plan.parts.push_back({"optimizer moments", 2 * floats((counts.trained + ranks - 1) / ranks), "2 x " + trained + share,
                        ranks > 1 ? "" : "--zero1 with several ranks"});
  if (options.ema)
    plan.parts.push_back(
        {"moving averages", floats((counts.trained + ranks - 1) / ranks), trained + share, "no --ema-decay"});
  if (options.bf16)
    plan.parts.push_back({"rounded weights", counts.rounded, millions(counts.trained) + " x bfloat16", ""});
  plan.parts.push_back({"activations", counts.activations,
                        fmt::format("batch {}, {}{}", options.batch, options.bf16 ? "bfloat16" : "float32",
                                    options.gradient_checkpointing ? ", checkpointing" : ""),
                        joined({{!options.gradient_checkpointing, "--gradient-checkpointing"},
                                {!options.bf16, "--mixed-precision bf16"},
                                {options.batch > 1, smaller_batch.c_str()}})});
  if (counts.kept > 0) plan.parts.push_back({"free blocks", counts.kept, "kept for activations of other sizes", ""});
  if (!options.own_memory)
    plan.parts.push_back(
        {"kernels", counts.work, "packed and converted operands", options.batch > 1 ? smaller_batch : ""});
  plan.parts.push_back({"batch", counts.batch, "latents, noise, times and labels", ""});
  return plan;
}

uint64_t MemoryPlan::total() const {
  uint64_t sum = 0;
  for (const Part& part : parts) sum += part.bytes;
  return sum;
}

std::string MemoryPlan::table(uint64_t available_bytes) const {
  std::vector<Part> rows{{"part", 0, "how", "smaller with"}};
  rows.insert(rows.end(), parts.begin(), parts.end());
  rows.push_back({"sum", total(), "", ""});
  const bool known = available_bytes != kUnknownMemory, fits = total() <= available_bytes;
  rows.push_back({"available", available_bytes, !known ? "" : fits ? "fits" : "does not fit", ""});
  const auto bytes_of = [&](const Part& row) -> std::string {
    if (&row == &rows.front()) return "bytes";
    return &row == &rows.back() && !known ? "not known" : human_bytes(row.bytes);
  };
  size_t name_width = 0, bytes_width = 0, how_width = 0;
  for (const Part& row : rows) {
    name_width = std::max(name_width, row.name.size());
    bytes_width = std::max(bytes_width, bytes_of(row).size());
    how_width = std::max(how_width, row.how.size());
  }
  std::string table;
  for (const Part& row : rows) {
    std::string line = fmt::format("{:{}}  {:>{}}  {:{}}  {}", row.name, name_width, bytes_of(row), bytes_width,
                                   row.how, how_width, row.lower);
    line.erase(line.find_last_not_of(' ') + 1);
    table += line + "\n";
  }
  return table;
}

uint64_t available_memory(const std::string& root) {
  const auto kilobytes = number_behind(root + "/proc/meminfo", "MemAvailable:");
  return std::min(kilobytes ? *kilobytes * 1024 : kUnknownMemory, rest_of_all_groups(root));
}

}  // namespace raedit::train
