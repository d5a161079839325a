#include "convert/model_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "core/check.h"
#include "io/files.h"
#include "io/safetensors.h"

namespace raedit::convert {
namespace {

constexpr const char* kBaseName = "diffusion_pytorch_model";

void require_equal(const std::string& name, const std::string& path, const Tensor& found, const Tensor& expected) {
  const Tensor a = found.contiguous(), b = expected.contiguous();
  const bool same = a.dtype() == b.dtype() && a.shape() == b.shape() &&
                    (a.nbytes() == 0 || std::memcmp(a.raw(), b.raw(), a.nbytes()) == 0);
  RAEDIT_CHECK(same, {.code = ErrorCode::io,
                      .what = "what was written is not what was meant: tensor '" + name + "' differs",
                      .where = path,
                      .hint = "the disk or the memory of this machine may be faulty"});
}

// One key a line, whatever its value: the statistics of an autoencoder are a million numbers.
std::string dump_config(const Json& config) {
  std::string text;
  for (const auto& [key, value] : config.items())
    text += fmt::format("{}  {}: {}", text.empty() ? "{\n" : ",\n", Json(key).dump(), value.dump());
  return text + "\n}\n";
}

}  // namespace

DType written_dtype(DType from, DType dtype) {
  return is_floating(from) ? dtype : from;
}

uint64_t written_bytes(const WeightSet& weights, DType dtype) {
  uint64_t bytes = 0;
  for (const std::string& name : weights.names()) {
    const TensorInfo& info = weights.info(name);
    bytes += static_cast<uint64_t>(info.shape.numel()) * size_of(written_dtype(info.dtype, dtype));
  }
  return bytes;
}

void WorkProgress::add(uint64_t bytes) {
  done_ += bytes;
  if (report_ && !report_(what_, done_, total_)) raise({.code = ErrorCode::cancelled, .what = "conversion cancelled"});
}

std::vector<TensorSource> tensor_sources(const WeightSet& weights, DType dtype, WorkProgress& progress) {
  // Writers lay tensors out by name; while one is written the disk can bring the next.
  auto order = std::make_shared<std::vector<std::string>>(weights.names());
  std::sort(order->begin(), order->end());
  const auto next_of = [order](const std::string& name) {
    return std::upper_bound(order->begin(), order->end(), name);
  };
  std::vector<TensorSource> sources;
  auto last = std::make_shared<std::string>();
  for (const std::string& name : weights.names()) {
    const TensorInfo& info = weights.info(name);
    const DType target = written_dtype(info.dtype, dtype);
    const auto piece = [=, &weights, &progress](int i) {
      return [=, &weights, &progress] {
        if (!last->empty() && *last != name) weights.drop_pages(*last);
        *last = name;
        if (const auto next = next_of(name); i == 0 && next != order->end()) weights.prefetch(*next);
        Tensor tensor = weights.piece(name, i).to(target);
        progress.add(tensor.nbytes());
        return tensor;
      };
    };
    sources.push_back({name, target, info.shape, piece(0)});
    for (int i = 1; i < weights.num_pieces(name); ++i) sources.back().below.push_back(piece(i));
  }
  return sources;
}

void write_model(const std::string& folder, const ModelPlan& plan, const ConvertOutput& output,
                 WorkProgress& progress) {
  write_safetensors_sharded(folder, kBaseName, "", tensor_sources(*plan.source.weights, output.dtype, progress),
                            output.max_shard_bytes);
  write_file((std::filesystem::path(folder) / "config.json").string(), dump_config(plan.source.config));
}

void verify_weights(const WeightSet& written, const WeightSet& expected, DType dtype, WorkProgress& progress) {
  RAEDIT_CHECK(written.names().size() == expected.names().size(),
               {.code = ErrorCode::io,
                .what = "what was written is not what was meant",
                .where = written.path(),
                .found = fmt::format("{} tensors", written.names().size()),
                .expected = fmt::to_string(expected.names().size())});
  for (const std::string& name : expected.names()) {
    {
      const Tensor meant = expected.tensor(name);
      require_equal(name, written.file_of(name), written.tensor(name), meant.to(written_dtype(meant.dtype(), dtype)));
    }
    progress.add(written.info(name).nbytes);
    written.drop_pages(name);
    expected.drop_pages(name);
  }
}

void verify_model(const std::string& folder, const ModelPlan& plan, const ConvertOutput& output,
                  WorkProgress& progress) {
  const std::string config_path = (std::filesystem::path(folder) / "config.json").string();
  RAEDIT_CHECK(models::read_config_file(config_path, plan.class_name) == plan.source.config,
               {.code = ErrorCode::io, .what = "what was written is not what was meant", .where = config_path});
  verify_weights(SafetensorsSet::open(folder, kBaseName), *plan.source.weights, output.dtype, progress);
}

}  // namespace raedit::convert
