// RAEDiTPipeline: class ids in, pictures out, as in diffusers' pipelines/rae_dit/pipeline_rae_dit.py.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "raedit/autoencoder_rae.h"
#include "raedit/context.h"
#include "raedit/export.h"
#include "raedit/flow_match_euler_discrete.h"
#include "raedit/generator.h"
#include "raedit/image.h"
#include "raedit/rae_dit_transformer.h"

namespace raedit {

enum class OutputType {
  latent,  // latents only, nothing is decoded
  pt,      // images [N,3,S,S] float32 in [0,1], unrounded
  pil,     // 8-bit pictures (and `images` too)
};

// In which steps of sampling the encoder stream of the transformer is computed; the other steps take its tokens from
// the last one that did, and add their own time (encoder sharing, Wang et al., 2504.05741). Steps count from 0. A list
// made for the model: find_encoder_reuse.
struct EncoderReuse {
  int64_t every = 1;                // every K-th step computes, the first one to begin with; 1 is no reuse
  std::vector<int64_t> steps = {};  // these compute, and no others: ascending, 0 first

  RAEDIT_API bool computes(int64_t step) const;
  // Throws Error(invalid_argument) for what is no schedule of this many steps.
  RAEDIT_API void check(int64_t num_inference_steps) const;
};

struct RAEDiTPipelineArguments {
  std::vector<int64_t> class_labels;
  double guidance_scale = 1.0;  // guidance above 1: classifier-free, or by guide_transformer
  // Autoguidance (Karras et al., 2406.02507): a weaker model of the same latents and classes, given the same class,
  // stands where classifier-free guidance has the model without a class. As upstream's forward_with_autoguidance.
  const RAEDiT2DModel* guide_transformer = nullptr;
  // Guidance acts where guidance_start <= t <= guidance_end; t runs from 1 (noise) to 0 (data).
  double guidance_start = 0.0;
  double guidance_end = 1.0;
  int64_t num_images_per_prompt = 1;  // repeats each label in place: a,a,b,b
  // Where the noise comes from, one of:
  std::optional<uint64_t> seed;                  // picture k gets a generator of its own, seeded seed + k. Default: 0
  RandomStream stream = {};                      // of those generators; for seeds alone
  std::vector<Generator>* generators = nullptr;  // one per picture, or one for the whole batch; they advance
  Tensor latents = {};                           // [N,C,S,S] noise to start from, used as it is
  int64_t num_inference_steps = 50;
  // Faster, for other pictures. A step whose guidance needs tokens that nobody made computes them, whatever this says.
  EncoderReuse encoder_reuse = {};
  // Sees the tokens [N,T,D] that a step computed, those of the conditional half, as long as the call lasts.
  std::function<void(int64_t step, const Tensor& tokens)> observe_tokens = {};
  OutputType output_type = OutputType::pil;
};

struct RAEDiTPipelineOutput {
  Tensor latents;               // [N,C,S,S] float32
  Tensor images;                // [N,3,S,S] float32 in [0,1]; undefined for OutputType::latent
  std::vector<Image> pictures;  // OutputType::pil
  int64_t encoder_passes = 0;   // steps that computed the encoder stream
  double sample_seconds = 0;
  double decode_seconds = 0;
};

class RAEDIT_API RAEDiTPipeline {
 public:
  RAEDiTPipeline(RAEDiT2DModel transformer, AutoencoderRAE vae, FlowMatchEulerDiscreteScheduler scheduler,
                 std::map<int64_t, std::string> id2label = {});
  // A folder in the diffusers layout: model_index.json, transformer/, vae/, scheduler/.
  static RAEDiTPipeline from_pretrained(const std::string& folder, const LoadOptions& options = {});
  // With this transformer in the place of the folder's, which may be missing.
  static RAEDiTPipeline from_pretrained(const std::string& folder, RAEDiT2DModel transformer,
                                        const LoadOptions& options = {});
  // Appears whole or not at all, file by file.
  void save_pretrained(const std::string& folder, const SaveOptions& options = {}) const;

  const RAEDiT2DModel& transformer() const { return transformer_; }
  const AutoencoderRAE& vae() const { return vae_; }
  AutoencoderRAE& vae() { return vae_; }
  const FlowMatchEulerDiscreteScheduler& scheduler() const { return scheduler_; }
  const std::map<int64_t, std::string>& id2label() const { return id2label_; }
  // Every comma-separated part of every label, with its class id. Of several equal names the last id wins.
  const std::map<std::string, int64_t>& labels() const { return labels_; }

  // Throws Error(invalid_argument) for an unknown name, with the closest known ones.
  std::vector<int64_t> get_label_ids(const std::vector<std::string>& names) const;

  // Throws Error(invalid_argument) before any work for arguments that are wrong or exclude each other. Thread-safe:
  // each call has its own scheduler state; each thread needs its own Context.
  RAEDiTPipelineOutput operator()(Context& ctx, const RAEDiTPipelineArguments& arguments) const;

 private:
  RAEDiT2DModel transformer_;
  AutoencoderRAE vae_;
  FlowMatchEulerDiscreteScheduler scheduler_;
  std::map<int64_t, std::string> id2label_;
  std::map<std::string, int64_t> labels_;
};

}  // namespace raedit
