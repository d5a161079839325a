// The velocity field that a request samples in: the transformer under its guidance, with what it keeps between steps
// (prepared conditioning, captured graphs, tokens of the encoder stream).
#pragma once

#include <string>
#include <vector>

#include "ops/replay.h"
#include "raedit/rae_dit_pipeline.h"

namespace raedit {

// The time of every step, in [0,1].
std::vector<float> step_times(const FlowMatchEulerDiscreteScheduler& scheduler);

// Where the device has graphs, each kind of evaluation is captured once per Context and replayed. What times and labels
// alone decide is made for many steps at once: its weights, a quarter of the XL model's, are then read once for all of
// these steps, and not once for a row or two of each. With arguments.encoder_reuse an evaluation is two
// pieces, the encoder stream and the rest, and only some steps run the first; so it is where somebody observes tokens.
class VelocityField {
 public:
  // times: of all steps. What is passed must outlive the field.
  VelocityField(Context& ctx, const RAEDiT2DModel& model, const Tensor& labels,
                const RAEDiTPipelineArguments& arguments, const std::vector<float>& times);

  // At the time of step i, float32; steps come in order. Outside the interval of guidance the other half is not even
  // computed.
  Tensor at(const Tensor& latents, size_t i);

  // Whether step i > 0, in place of the one before it, would ask for the same memory.
  bool repeats(size_t i) const;

  bool computes_tokens(size_t i) const { return encodes_[i]; }
  // Those of the conditional half, after at() of a step that computed them for arguments.observe_tokens.
  Tensor tokens() const { return tokens_.slice(0, 0, labels_.dim(0)); }

  // Of all steps.
  int64_t encoder_passes() const;

 private:
  // What one evaluation of the velocity is: with guidance by the null class, by another model, or without.
  enum class Guidance { none, null_class, guide };

  Guidance guidance_at(float t) const;
  int64_t rows_of(Guidance guidance) const;
  Tensor labels_of(Guidance guidance) const;

  void plan_encoder_passes();
  void condition_ahead(size_t begin);
  RAEDiTConditioning conditioning_of(size_t i, Guidance guidance);

  Tensor from_conditioning(const Tensor& latents, size_t i, Guidance guidance);
  Tensor from_tokens(const Tensor& latents, size_t i, Guidance guidance);
  void compute_tokens(const Tensor& latents, size_t i, Guidance guidance);
  Tensor encode(const RAEDiT2DModel& model, const std::vector<Tensor>& inputs);

  std::string key(const char* name, Guidance guidance) const;
  Tensor run(const std::string& key, const ops::Replay::Work& work, const std::vector<Tensor>& inputs);

  Context& ctx_;
  const RAEDiT2DModel& model_;
  const Tensor& labels_;
  const RAEDiTPipelineArguments& arguments_;
  const std::vector<float>& times_;
  std::vector<bool> encodes_;  // each step
  bool in_pieces_ = false;     // evaluations are: not every step encodes, or tokens are observed
  int64_t steps_ahead_ = 0;    // whose conditioning is made at once; 0: none
  RAEDiTConditioning ahead_;   // of the steps before ahead_end_ that compute the encoder stream
  size_t ahead_end_ = 0;
  std::vector<int64_t> first_row_;  // of each step in ahead_
  Tensor tokens_, guide_tokens_;    // of the last step that made them
};

}  // namespace raedit
