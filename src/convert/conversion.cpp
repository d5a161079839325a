#include "convert/conversion.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"
#include "io/staged_folder.h"
#include "pipeline/model_index.h"

namespace raedit::convert {
namespace fs = std::filesystem;
namespace {

constexpr const char* kMetadataName = "conversion_metadata.json";

uint64_t bytes_of(const Conversion& conversion, DType dtype) {
  uint64_t bytes = 0;
  for (const auto& [folder, plan] : conversion.models) bytes += written_bytes(*plan.source.weights, dtype);
  return bytes;
}

ConvertReport report_of(const Conversion& c, const ConvertOutput& output) {
  ConvertReport report;
  report.sources = c.checkpoints;
  report.notes = c.notes;
  report.bytes = bytes_of(c, output.dtype);
  const fs::path root(output.output_path);
  for (const auto& [folder, plan] : c.models) {
    report.num_tensors += static_cast<int64_t>(plan.source.weights->names().size());
    report.written.push_back(folder.empty() ? root.string() : (root / folder).string());
  }
  const auto is_guide = [](const auto& model) { return model.first == kGuideFolder; };
  std::error_code error;
  if (c.scheduler && std::none_of(c.models.begin(), c.models.end(), is_guide) && fs::exists(root / kGuideFolder, error))
    report.notes.push_back(fmt::format("{}/ of an earlier conversion is still there", kGuideFolder));
  if (c.scheduler) report.written.push_back((root / c.scheduler_subfolder).string());
  if (c.is_pipeline) report.written.push_back((root / "model_index.json").string());
  return report;
}

std::string metadata_text(Json metadata, const ConvertOutput& output, Json files) {
  metadata["source"]["files"] = std::move(files);
  metadata["dtype"] = std::string(name_of(output.dtype));
  // A path need not be UTF-8, which JSON must be.
  return metadata.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

void check_output(const ConvertOutput& output) {
  RAEDIT_CHECK(
      output.dry_run || !output.output_path.empty(),
      {.code = ErrorCode::invalid_argument, .what = "output_path is missing", .expected = "the folder to write"});
  const bool known =
      output.dtype == DType::float32 || output.dtype == DType::bfloat16 || output.dtype == DType::float16;
  RAEDIT_CHECK(known, {.code = ErrorCode::invalid_argument,
                       .what = "weights are not written in this type",
                       .where = "dtype",
                       .found = std::string(name_of(output.dtype)),
                       .expected = "float32, bfloat16 or float16"});
}

void check_space(const std::string& path, uint64_t bytes) {
  std::error_code error;
  fs::path folder = fs::absolute(path, error);
  while (!fs::exists(folder, error) && folder.has_parent_path() && folder != folder.parent_path())
    folder = folder.parent_path();
  struct statvfs disk {};
  if (::statvfs(folder.c_str(), &disk) != 0) return;  // writing will say what is wrong
  const uint64_t free = static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
  RAEDIT_CHECK(free >= bytes, {.code = ErrorCode::io,
                               .what = "not enough space on the disk",
                               .where = path,
                               .found = human_bytes(free) + " free",
                               .expected = human_bytes(bytes)});
}

ConvertReport run(const Conversion& c, const ConvertOutput& output) {
  ConvertReport report = report_of(c, output);
  SourceRecord sources(!output.dry_run);
  for (const std::string& path : c.checkpoints) sources.add(path);
  if (output.dry_run) {
    report.metadata = metadata_text(c.metadata, output, sources.finish());
    return report;
  }
  StagedFolder staged(output.output_path);
  check_space(output.output_path, report.bytes);
  sources.start();
  WorkProgress writing(output.progress, "write", report.bytes);
  for (const auto& [folder, plan] : c.models) write_model(staged.at(folder), plan, output, writing);
  if (c.scheduler) FlowMatchEulerDiscreteScheduler(*c.scheduler).save_pretrained(staged.at(c.scheduler_subfolder));
  if (output.verify_load) {
    WorkProgress verifying(output.progress, "verify", report.bytes);
    for (const auto& [folder, plan] : c.models) verify_model(staged.at(folder), plan, output, verifying);
  }
  report.metadata = metadata_text(c.metadata, output, sources.finish());
  write_file(staged.at(kMetadataName), report.metadata);
  if (c.is_pipeline) write_file(staged.at("model_index.json"), model_index(c.id2label).dump(2) + "\n");
  staged.commit();
  return report;
}

}  // namespace raedit::convert
