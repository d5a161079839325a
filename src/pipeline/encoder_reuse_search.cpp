// Which steps compute the encoder stream: Wang et al., 2504.05741, section 3.4.
#include "pipeline/encoder_reuse_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/check.h"
#include "core/guard.h"
#include "pipeline/velocity_field.h"

namespace raedit {
namespace {

// Tables of steps squared numbers; and what a product with the number of classes does not overflow at.
constexpr int64_t kMostSteps = 10'000, kMostPictures = 1'000'000;
constexpr double kNever = -std::numeric_limits<double>::infinity();

double dot(const float* a, const float* b, int64_t n) {
  double sums[8] = {};  // which need not wait for each other
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int64_t k = 0; k < 8; ++k) sums[k] += static_cast<double>(a[i + k]) * static_cast<double>(b[i + k]);
  for (; i < n; ++i) sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return std::accumulate(std::begin(sums), std::end(sums), 0.0);
}

// [1,N,D], every token of length 1: the mean cosine of two is then one product.
std::vector<float> unit_tokens(const Tensor& tokens) {
  std::vector<float> values = tokens.to_vector<float>();
  const int64_t width = tokens.dim(2);
  for (int64_t n = 0; n < tokens.dim(1); ++n) {
    float* token = values.data() + n * width;
    const double length = std::sqrt(dot(token, token, width));
    if (length == 0) continue;
    for (int64_t d = 0; d < width; ++d) token[d] = static_cast<float>(token[d] / length);
  }
  return values;
}

RAEDiTPipelineArguments arguments_of(const EncoderReuseSearch& s, const RAEDiT2DModelConfig& config, int64_t picture) {
  RAEDiTPipelineArguments a;
  a.class_labels = {picture * config.num_classes / s.pictures % config.num_classes};
  a.guidance_scale = s.guidance_scale;
  a.guide_transformer = s.guide_transformer;
  a.guidance_start = s.guidance_start;
  a.guidance_end = s.guidance_end;
  a.seed = s.seed + static_cast<uint64_t>(picture);
  a.num_inference_steps = s.num_inference_steps;
  a.output_type = OutputType::latent;
  return a;
}

// The steps that compute even if the schedule is the first step alone.
std::vector<int64_t> required_steps(Context& ctx, const RAEDiTPipeline& pipeline, const EncoderReuseSearch& search) {
  RAEDiTPipelineArguments arguments = arguments_of(search, pipeline.transformer().config(), 0);
  arguments.encoder_reuse.every = search.num_inference_steps;
  FlowMatchEulerDiscreteScheduler scheduler = pipeline.scheduler();
  scheduler.set_timesteps(search.num_inference_steps);
  const std::vector<float> times = step_times(scheduler);
  const Tensor labels = Tensor::from(arguments.class_labels, {1});
  const VelocityField velocity(ctx, pipeline.transformer(), labels, arguments, times);
  std::vector<int64_t> required;
  for (size_t i = 0; i < times.size(); ++i)
    if (velocity.computes_tokens(i)) required.push_back(static_cast<int64_t>(i));
  return required;
}

void check_count(const char* what, int64_t found, int64_t most) {
  RAEDIT_CHECK(found >= 1 && found <= most, {.code = ErrorCode::invalid_argument,
                                             .what = fmt::format("{} is out of range", what),
                                             .where = "find_encoder_reuse",
                                             .found = fmt::to_string(found),
                                             .expected = fmt::format("1 to {}", most)});
}

void check_search(const EncoderReuseSearch& s) {
  check_count("num_inference_steps", s.num_inference_steps, kMostSteps);
  check_count("pictures", s.pictures, kMostPictures);
  check_count("passes", s.passes, s.num_inference_steps);
}

void check_passes(int64_t passes, const std::vector<int64_t>& required) {
  RAEDIT_CHECK(passes >= static_cast<int64_t>(required.size()),
               {.code = ErrorCode::invalid_argument,
                .what = "passes are too few for this guidance, whose first step needs one",
                .where = "find_encoder_reuse",
                .found = fmt::to_string(passes),
                .expected = fmt::format("{} or more, for the steps {}", required.size(), fmt::join(required, ", "))});
}

}  // namespace

StepSimilarity::StepSimilarity(int64_t steps)
    : steps_(steps), values_(static_cast<size_t>(steps) * static_cast<size_t>(steps)) {
  for (int64_t i = 0; i < steps; ++i) at(i, i) = 1;
}

void StepSimilarity::require(int64_t required) {
  for (int64_t from = 0; from < required; ++from)
    for (int64_t step = required; step < steps_; ++step) at(step, from) = kNever;
}

StepSimilarity measure_similarity(Context& ctx, const RAEDiTPipeline& pipeline, const EncoderReuseSearch& search) {
  StepSimilarity similarity(search.num_inference_steps);
  for (int64_t picture = 0; picture < search.pictures; ++picture) {
    RAEDiTPipelineArguments arguments = arguments_of(search, pipeline.transformer().config(), picture);
    std::vector<std::vector<float>> seen;
    arguments.observe_tokens = [&](int64_t step, const Tensor& tokens) {
      seen.push_back(unit_tokens(tokens));
      const std::vector<float>& now = seen.back();
      const auto share = 1 / static_cast<double>(tokens.dim(1) * search.pictures);
      for (int64_t from = 0; from < step; ++from)
        similarity.at(step, from) +=
            share * dot(now.data(), seen[static_cast<size_t>(from)].data(), static_cast<int64_t>(now.size()));
    };
    pipeline(ctx, arguments);
  }
  return similarity;
}

// sums[k][j] is the best that steps from j on can have when j computes and k more of them do; following[k][j] is the
// first of those k.
std::vector<int64_t> best_steps(const StepSimilarity& similarity, int64_t passes) {
  const int64_t steps = similarity.steps();
  const auto n = static_cast<size_t>(steps), rows = static_cast<size_t>(passes);
  std::vector<std::vector<double>> sums(rows, std::vector<double>(n));
  std::vector<std::vector<int64_t>> following(rows, std::vector<int64_t>(n));
  for (int64_t j = 0; j < steps; ++j)
    for (int64_t i = j; i < steps; ++i) sums[0][static_cast<size_t>(j)] += similarity.at(i, j);
  for (int64_t k = 1; k < passes; ++k)
    for (int64_t j = 0; j + k < steps; ++j) {
      double& best = sums[static_cast<size_t>(k)][static_cast<size_t>(j)];
      int64_t& next = following[static_cast<size_t>(k)][static_cast<size_t>(j)];
      double until_next = 0;
      for (int64_t m = j + 1; m + k - 1 < steps; ++m) {
        until_next += similarity.at(m - 1, j);
        const double sum = until_next + sums[static_cast<size_t>(k - 1)][static_cast<size_t>(m)];
        if (next != 0 && sum <= best) continue;  // of equals the first
        best = sum;
        next = m;
      }
    }
  std::vector<int64_t> list{0};
  for (int64_t k = passes - 1; k > 0; --k)
    list.push_back(following[static_cast<size_t>(k)][static_cast<size_t>(list.back())]);
  return list;
}

double mean_similarity(const StepSimilarity& similarity, const std::vector<int64_t>& list) {
  double sum = 0;
  size_t last = 0;
  for (int64_t i = 0; i < similarity.steps(); ++i) {
    if (last + 1 < list.size() && list[last + 1] == i) ++last;
    sum += similarity.at(i, list[last]);
  }
  return sum / static_cast<double>(similarity.steps());
}

std::vector<int64_t> even_steps(int64_t steps, int64_t passes) {
  const int64_t distance = (steps + passes - 1) / passes;
  const bool exact = (steps + distance - 1) / distance == passes;
  std::vector<int64_t> list;
  for (int64_t k = 0; k < passes; ++k) list.push_back(exact ? k * distance : k * steps / passes);
  return list;
}

EncoderReuseFound find_encoder_reuse(Context& ctx, const RAEDiTPipeline& pipeline, const EncoderReuseSearch& search) {
  return guarded("find_encoder_reuse", [&] {
    check_search(search);
    const std::vector<int64_t> required = required_steps(ctx, pipeline, search);
    check_passes(search.passes, required);
    StepSimilarity similarity = measure_similarity(ctx, pipeline, search);
    for (const int64_t step : required) similarity.require(step);
    EncoderReuseFound found;
    found.reuse.steps = best_steps(similarity, search.passes);
    found.similarity = mean_similarity(similarity, found.reuse.steps);
    const std::vector<int64_t> even = even_steps(search.num_inference_steps, search.passes);
    std::set_union(even.begin(), even.end(), required.begin(), required.end(), std::back_inserter(found.even.steps));
    found.even_similarity = mean_similarity(similarity, found.even.steps);
    return found;
  });
}

}  // namespace raedit
