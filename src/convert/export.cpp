// The way back: models of the diffusers layout as the files that upstream's code loads, with a YAML that names them and
// the encoder as a folder of the Hugging Face layout. What is written here, convert_pipeline reads to the same bits.
#include <fmt/format.h>

#include <filesystem>
#include <optional>

#include "convert/conversion.h"
#include "convert/export_config.h"
#include "convert/export_statistics.h"
#include "convert/key_rules.h"
#include "convert/stage2.h"
#include "core/check.h"
#include "core/guard.h"
#include "io/files.h"
#include "io/staged_folder.h"
#include "io/torch_write.h"
#include "io/weight_folder.h"
#include "models/autoencoder_rae.h"

namespace raedit {
namespace convert {
namespace {

namespace fs = std::filesystem;

std::string class_of(const std::string& folder) {
  const std::string path = (fs::path(folder) / "config.json").string();
  const Json json = parse_json(read_file(path, size_t{128} << 20), path);
  const bool named = json.is_object() && json.contains("_class_name") && json["_class_name"].is_string();
  return named ? json["_class_name"].get<std::string>() : "";
}

ModelPlan open_plan(const fs::path& folder, const std::string& class_name) {
  return {class_name, models::open_model(folder.string(), class_name, {}), {}};
}

// What of a pipeline is there.
ExportedModels open_models(const std::string& folder) {
  ExportedModels models;
  const fs::path root(folder);
  std::error_code error;
  if (fs::exists(root / "model_index.json", error)) {
    models.transformer = open_plan(root / "transformer", "RAEDiT2DModel");
    models.vae = open_plan(root / "vae", "AutoencoderRAE");
    models.shift = FlowMatchEulerDiscreteScheduler::from_pretrained((root / "scheduler").string()).config().shift;
    if (fs::exists(root / kGuideFolder / "config.json", error))
      models.guide = open_plan(root / kGuideFolder, "RAEDiT2DModel");
  } else {
    RAEDIT_CHECK(fs::exists(root / "config.json", error),
                 {.code = ErrorCode::not_found,
                  .what = "no model to export",
                  .where = folder,
                  .expected = "a folder with model_index.json, or with the config.json of one model"});
    const std::string name = class_of(folder);
    if (name == "RAEDiT2DModel")
      models.transformer = open_plan(root, name);
    else if (name == "AutoencoderRAE")
      models.vae = open_plan(root, name);
    else
      raise({.code = ErrorCode::unsupported,
             .what = "this kind of model cannot be exported",
             .where = folder,
             .found = name.empty() ? "no _class_name" : name,
             .expected = "RAEDiT2DModel or AutoencoderRAE"});
  }
  for (std::optional<ModelPlan>* plan : {&models.transformer, &models.guide})
    if (*plan) complete_transformer(**plan);
  return models;
}

std::shared_ptr<const WeightSet> upstream_transformer(const ModelPlan& plan) {
  const bool swiglu = plan.source.config.value("use_swiglu", true);
  return std::make_shared<TranslatedWeights>(plan.source.weights,
                                             apply_backwards(*plan.source.weights, stage2_rules(swiglu)));
}

// With the position table, which upstream keeps in the checkpoint and diffusers does not.
std::shared_ptr<const WeightSet> upstream_decoder(const ModelPlan& plan) {
  const WeightSet& weights = *plan.source.weights;
  std::shared_ptr<const WeightSet> decoder =
      std::make_shared<TranslatedWeights>(plan.source.weights, apply_backwards(weights, decoder_rules(), "decoder."));
  if (decoder->contains("decoder_pos_embed")) return decoder;
  const AutoencoderRAEConfig config = models::parse_autoencoder_rae_config(plan.source.config, plan.source.where);
  models::RaeDecoder computed(config);
  computed.complete();
  const NamedTensors table{{"decoder_pos_embed", computed.decoder_pos_embed.value}};
  return std::make_shared<JoinedWeights>(
      JoinedWeights::Parts{std::move(decoder), std::make_shared<MemoryWeights>("computed table", table)});
}

// A file of the export and what goes into it.
struct ExportedFile {
  std::string path;
  std::shared_ptr<const WeightSet> weights;
};

std::vector<ExportedFile> torch_files(const ExportedModels& models) {
  std::vector<ExportedFile> files;
  if (models.transformer) files.push_back({kStage2File, upstream_transformer(*models.transformer)});
  if (models.guide) files.push_back({kGuideFile, upstream_transformer(*models.guide)});
  if (models.vae) {
    files.push_back({kDecoderFile, upstream_decoder(*models.vae)});
    const NamedTensors statistics = upstream_statistics(*models.vae->source.weights);
    if (!statistics.empty())
      files.push_back({kStatisticsFile, std::make_shared<MemoryWeights>("statistics", statistics)});
  }
  return files;
}

void verify_export(const StagedFolder& staged, const std::vector<ExportedFile>& files, const ConvertOutput& output,
                   uint64_t bytes) {
  WorkProgress progress(output.progress, "verify", bytes);
  for (const ExportedFile& file : files)
    verify_weights(*open_weight_file(staged.at(file.path)), *file.weights, output.dtype, progress);
}

}  // namespace
}  // namespace convert

using namespace convert;

ConvertReport convert_export(const ConvertExportOptions& options, const ConvertOutput& output) {
  return guarded("convert_export", [&] {
    check_output(output);
    const ExportedModels models = open_models(options.model);
    const std::vector<ExportedFile> files = torch_files(models);
    const auto configs = config_files(models);
    const std::shared_ptr<const WeightSet> encoder = models.vae ? export_encoder(*models.vae) : nullptr;
    ConvertReport report;
    for (const std::optional<ModelPlan>* plan : {&models.transformer, &models.guide, &models.vae})
      if (*plan) report.sources.push_back((*plan)->source.weights->path());
    for (const ExportedFile& file : files) {
      report.bytes += written_bytes(*file.weights, output.dtype);
      report.num_tensors += static_cast<int64_t>(file.weights->names().size());
      report.written.push_back((fs::path(output.output_path) / file.path).string());
    }
    if (encoder != nullptr) report.bytes += written_bytes(*encoder, output.dtype);
    for (const auto& [path, text] : configs) report.written.push_back((fs::path(output.output_path) / path).string());
    if (output.dry_run) return report;

    StagedFolder staged(output.output_path);
    check_space(output.output_path, report.bytes);
    WorkProgress progress(output.progress, "write", report.bytes);
    for (const ExportedFile& file : files) {
      create_directories(fs::path(staged.at(file.path)).parent_path().string());
      write_torch(staged.at(file.path), tensor_sources(*file.weights, output.dtype, progress));
    }
    std::vector<ExportedFile> written = files;
    if (encoder != nullptr) {
      written.push_back({std::string(kEncoderFolder) + "/model.safetensors", encoder});
      create_directories(staged.at(kEncoderFolder));
      write_safetensors(staged.at(written.back().path), tensor_sources(*encoder, output.dtype, progress),
                        {{"format", "pt"}});
    }
    if (output.verify_load) verify_export(staged, written, output, report.bytes);
    for (const auto& [path, text] : configs) {
      create_directories(fs::path(staged.at(path)).parent_path().string());
      write_file(staged.at(path), text);
    }
    staged.commit();
    return report;
  });
}

}  // namespace raedit
