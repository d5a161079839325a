// Conversion of what the RAE authors publish (torch checkpoints with OmegaConf YAML; encoders in the Hugging Face
// layout) to the diffusers layout, and back. Options carry the names of the two scripts that this replaces:
// convert_rae_stage2_to_diffusers.py (pull request 13231) and convert_rae_to_diffusers.py.
//
// Every function reads lazily, writes tensor by tensor, and leaves either everything or nothing behind; in an output
// folder that is there already, files are replaced one by one when all are ready. Errors:
// not_found for files and repositories, format for checkpoints that are not what their config says (the first tensor
// that is missing, extra or misshapen is named), unsupported for configs that the diffusers layout cannot hold.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "raedit/dtype.h"
#include "raedit/error.h"
#include "raedit/export.h"
#include "raedit/hub.h"
#include "raedit/pretrained.h"
#include "raedit/rae_dit_pipeline.h"

namespace raedit {

// Return false to cancel: Error(cancelled). `what` is "read", "write", "verify"; bytes.
using ConvertProgress = std::function<bool(const std::string& what, uint64_t done, uint64_t total)>;

struct ConvertOutput {
  std::string output_path;
  DType dtype = DType::float32;  // of every floating-point tensor, as the scripts do; float32, bfloat16 or float16
  uint64_t max_shard_bytes = 10'000'000'000;
  bool dry_run = false;      // resolve and check everything, write nothing
  bool verify_load = false;  // read back what was written and compare it with the source, bit for bit
  HubOptions hub = {};
  ConvertProgress progress = {};
};

struct ConvertReport {
  std::vector<std::string> sources;  // files that were read
  std::vector<std::string> written;  // folders that were written; with dry_run, that would be
  std::vector<std::string> notes;    // what the user should know; one sentence each
  std::string metadata;              // the content of conversion_metadata.json
  uint64_t bytes = 0;                // of tensors
  int64_t num_tensors = 0;
};

struct ConvertStage2Options {
  std::string repo_or_path;            // a folder or org/name[@revision] with the weights
  std::string config_repo_or_path;     // where the YAML is; default: repo_or_path
  std::string config_path;             // the YAML, inside of it, or a local file
  std::string vae_model_name_or_path;  // an AutoencoderRAE in the diffusers layout: the result is a whole pipeline
  std::string id2label_json_path;
  std::string checkpoint_path;  // instead of the YAML's stage_2.ckpt
  std::string checkpoint_key;   // dotted path to the state dict; default: ema, model, state_dict, or the file itself
  std::string transformer_subfolder = "transformer";
  std::string scheduler_subfolder = "scheduler";
  bool disable_ema = false;  // prefer `model` to `ema`
};

// How latents_std is made from upstream's variance (docs/conversion.md, "Two epsilons").
enum class LatentsStd {
  diffusers,  // sqrt(var + 1e-5), as the script; at run time 1e-5 is added once more
  upstream,   // sqrt(var + 1e-5) - 1e-5, so that the run time divides by what upstream divides by
};

struct ConvertRaeOptions {
  std::string repo_or_path;
  std::string encoder_type;          // dinov2, siglip2 or mae
  std::string encoder_name_or_path;  // default: the published base model of that type
  std::string variant = "ViTXL_n08";
  std::string dataset_name = "imagenet1k";
  std::string decoder_checkpoint;  // inside repo_or_path, or a local file
  std::string stats_checkpoint;
  std::string checkpoint_key;
  std::string decoder_config_name = "ViTXL";  // ViTB, ViTL, ViTXL, or the path of a decoder's config.json
  int64_t encoder_input_size = 224;
  int64_t patch_size = 16;
  std::optional<int64_t> image_size;
  int64_t num_channels = 3;
  double scaling_factor = 1.0;
  bool disable_ema = false;
  LatentsStd latents_std = LatentsStd::diffusers;
};

struct ConvertPipelineOptions {
  std::string repo_or_path;  // a folder or name with config, weights, decoder and statistics
  std::string config_repo_or_path;
  std::string config_path;      // the YAML with stage_1 and stage_2; default: the only one that has both
  std::string checkpoint_path;  // overrides, as above
  std::string checkpoint_key;
  std::string encoder_name_or_path;
  std::string decoder_checkpoint;
  std::string stats_checkpoint;
  std::string vae_model_name_or_path;  // instead of the YAML's stage_1
  std::string id2label_json_path;      // default: ImageNet-1k's where the model has 1000 classes
  bool disable_ema = false;
  LatentsStd latents_std = LatentsStd::diffusers;
};

struct ConvertExportOptions {
  std::string model;  // a pipeline, or the folder of a RAEDiT2DModel or AutoencoderRAE
};

RAEDIT_API ConvertReport convert_stage2(const ConvertStage2Options& options, const ConvertOutput& output);
RAEDIT_API ConvertReport convert_rae(const ConvertRaeOptions& options, const ConvertOutput& output);
RAEDIT_API ConvertReport convert_pipeline(const ConvertPipelineOptions& options, const ConvertOutput& output);
// The other way: torch files and YAML that upstream's code loads. output_path is a folder.
RAEDIT_API ConvertReport convert_export(const ConvertExportOptions& options, const ConvertOutput& output);

// An upstream folder (or name) as a pipeline, without writing anything: the tensors are those that convert_pipeline
// would write, so the pictures are the same. The encoder is left out where it is not at hand, and then encode() throws
// Error(not_found); generating does without.
struct UpstreamPipeline {
  RAEDiTPipeline pipeline;
  std::optional<RAEDiT2DModel> guide_transformer;  // of a YAML that asks for autoguidance
  std::string config_path;
  std::vector<std::string> notes;
  // What its YAML samples with.
  int64_t num_inference_steps = 50;
  double guidance_scale = 1.0;
  double guidance_start = 0.0, guidance_end = 1.0;
};
// load.calibration is the pipeline's; `guide_calibration` is that of guide_transformer, which calibrate() makes of a
// pipeline with it in the place of the transformer.
RAEDIT_API UpstreamPipeline open_upstream(const ConvertPipelineOptions& options, const LoadOptions& load = {},
                                          const HubOptions& hub = {}, const std::string& guide_calibration = {});

// The models of an upstream folder (or name), each loaded when it is asked for: for those who need some of them alone.
// Making one reads names and shapes of all, and no weights.
class RAEDIT_API UpstreamModels {
 public:
  explicit UpstreamModels(const ConvertPipelineOptions& options, const HubOptions& hub = {});

  RAEDiT2DModel transformer(const LoadOptions& load = {}) const;
  // Of a YAML that asks for autoguidance.
  std::optional<RAEDiT2DModel> guide_transformer(const LoadOptions& load = {}) const;
  AutoencoderRAE vae(const LoadOptions& load = {}) const;
  // All but the transformer, and this one in its place.
  RAEDiTPipeline pipeline(RAEDiT2DModel transformer, const LoadOptions& load = {}) const;

 private:
  friend UpstreamPipeline open_upstream(const ConvertPipelineOptions&, const LoadOptions&, const HubOptions&,
                                        const std::string&);
  struct State;
  std::shared_ptr<const State> state_;
};
// Whether `folder` looks like one: no model_index.json, but a YAML with stage_1 and stage_2.
RAEDIT_API bool is_upstream_folder(const std::string& folder);

}  // namespace raedit
