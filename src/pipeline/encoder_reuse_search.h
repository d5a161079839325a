// The two halves of find_encoder_reuse, each of which can be tested alone: how alike the tokens of any two steps are,
// and which list of steps is best by such a table.
#pragma once

#include <cstdint>
#include <vector>

#include "raedit/encoder_reuse_search.h"

namespace raedit {

// For every step, how well the tokens of each step up to it would serve: 1 for its own.
class StepSimilarity {
 public:
  explicit StepSimilarity(int64_t steps);

  int64_t steps() const { return steps_; }
  // from <= step
  double& at(int64_t step, int64_t from) { return values_[static_cast<size_t>(from * steps_ + step)]; }
  double at(int64_t step, int64_t from) const { return values_[static_cast<size_t>(from * steps_ + step)]; }
  // Tokens from before this step serve no later one: every list that is worth anything has it.
  void require(int64_t step);

 private:
  int64_t steps_;
  std::vector<double> values_;
};

// Of raw tokens, pictures alone; see find_encoder_reuse.
StepSimilarity measure_similarity(Context& ctx, const RAEDiTPipeline& pipeline, const EncoderReuseSearch& search);

// `passes` of the steps, 0 first, with the largest sum of similarities when every step takes the tokens of the last one
// in the list up to it. The first in order of several with one sum. passes: 1 to the number of steps.
std::vector<int64_t> best_steps(const StepSimilarity& similarity, int64_t passes);
double mean_similarity(const StepSimilarity& similarity, const std::vector<int64_t>& list);

// Every K-th step where some K gives as many passes, else as near to that as whole steps can be.
std::vector<int64_t> even_steps(int64_t steps, int64_t passes);

}  // namespace raedit
