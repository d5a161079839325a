// How upstream's names become diffusers' names: tables of rules, and the recipes that follow from them. Source:
// bytetriper/RAE stage2/models/DDT.py and stage1/decoders/decoder.py; diffusers transformer_rae_dit.py,
// autoencoder_rae.py; transformers' names of DINOv2, SigLIP and MAE.
#pragma once

#include <string_view>
#include <vector>

#include "convert/translated_weights.h"

namespace raedit::convert {

enum class Change {
  rename,
  swap_halves,  // upstream's SwiGLU is [gate; value], diffusers' is [value; gate]
  split_qkv,    // one matrix of three thirds; `to` names the first, to_k and to_v follow from it
};

// A name that contains `from` contains `to` instead.
struct KeyRule {
  std::string_view from;
  std::string_view to;
  Change change = Change::rename;
};

// The transformer (DiTwDDTHead).
std::vector<KeyRule> stage2_rules();
// The same read backwards: whether the blocks have a SwiGLU decides what mlp.net becomes.
std::vector<KeyRule> stage2_rules(bool use_swiglu);
// The RAE decoder (GeneralDecoder).
std::vector<KeyRule> decoder_rules();

// One recipe or more for each name of `weights`; the first rule that fits is taken, and prefix is put before the
// result.
std::vector<Recipe> apply_rules(const WeightSet& weights, const std::vector<KeyRule>& rules,
                                const std::string& prefix = "");
// The way back, for names that begin with `prefix`. Throws Error(format) when one of q, k and v is missing.
std::vector<Recipe> apply_backwards(const WeightSet& weights, const std::vector<KeyRule>& rules,
                                    const std::string& prefix = "");

}  // namespace raedit::convert
