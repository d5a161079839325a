#include "train/latent_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "models/checkpoint.h"
#include "train/replaced_statistics.h"

namespace raedit::train {
namespace {

constexpr double kEps = 1e-5;  // of upstream's RAE, and of convert/latent_statistics.h
constexpr float kNoDivisor = 1.0f - kEps;

// AutoencoderRAE divides by latents_std + 1e-5 in float32.
static_assert(kNoDivisor + 1e-5f == 1.0f);

}  // namespace

RunningMoments::RunningMoments(const Shape& shape)
    : shape_(shape), mean_(static_cast<size_t>(shape.numel())), squares_(static_cast<size_t>(shape.numel())) {}

void RunningMoments::add(const Tensor& batch) {
  const bool fits = batch.defined() && batch.rank() == shape_.rank() + 1 && is_floating(batch.dtype()) &&
                    std::equal(shape_.begin(), shape_.end(), batch.shape().begin() + 1);
  RAEDIT_CHECK(fits, {.code = ErrorCode::invalid_argument,
                      .what = "a batch has another shape than its moments",
                      .where = "RunningMoments::add",
                      .found = batch.defined() ? batch.shape().str() : "nothing",
                      .expected = "[batch] of " + shape_.str()});
  const std::vector<double> values = batch.to_vector<double>();
  const bool finite = std::ranges::all_of(values, [](double x) { return std::isfinite(x); });
  RAEDIT_CHECK(finite, {.code = ErrorCode::not_finite,
                        .what = "a latent is not finite",
                        .where = fmt::format("examples {} to {}", count_, count_ + batch.dim(0) - 1)});
  const size_t numel = mean_.size();
  for (int64_t b = 0; b < batch.dim(0); ++b) {
    const double* x = values.data() + static_cast<size_t>(b) * numel;
    const auto n = static_cast<double>(++count_);
    for (size_t i = 0; i < numel; ++i) {
      const double before = x[i] - mean_[i];
      mean_[i] += before / n;
      squares_[i] += before * (x[i] - mean_[i]);
    }
  }
}

namespace {

struct Moments {
  double count, mean, squares;
};

Moments merged(const Moments& a, const Moments& b) {
  const double count = a.count + b.count, delta = b.mean - a.mean;
  return {count, a.mean + delta * (b.count / count),
          a.squares + b.squares + delta * delta * (a.count * b.count / count)};
}

}  // namespace

void RunningMoments::merge(const RunningMoments& other) {
  RAEDIT_CHECK(shape_ == other.shape_, {.code = ErrorCode::invalid_argument,
                                        .what = "moments of different shapes cannot be merged",
                                        .where = "RunningMoments::merge",
                                        .found = other.shape_.str(),
                                        .expected = shape_.str()});
  if (other.count_ == 0) return;
  const auto here = static_cast<double>(count_), there = static_cast<double>(other.count_);
  for (size_t i = 0; i < mean_.size(); ++i) {
    const Moments m = merged({here, mean_[i], squares_[i]}, {there, other.mean_[i], other.squares_[i]});
    mean_[i] = m.mean;
    squares_[i] = m.squares;
  }
  count_ += other.count_;
}

RunningMoments RunningMoments::over_all_but(int dim) const {
  Shape shape = shape_;
  int64_t inner = 1;
  for (int i = 0; i < shape_.rank(); ++i) {
    if (i != dim) shape.set(i, 1);
    if (i > dim) inner *= shape_[i];
  }
  RunningMoments result(shape);
  const int64_t kept = shape_[dim];
  std::vector<double> counts(static_cast<size_t>(kept));
  for (int64_t i = 0; count_ > 0 && i < shape_.numel(); ++i) {
    const auto at = static_cast<size_t>(i / inner % kept), from = static_cast<size_t>(i);
    const Moments m = merged({counts[at], result.mean_[at], result.squares_[at]},
                             {static_cast<double>(count_), mean_[from], squares_[from]});
    counts[at] = m.count;
    result.mean_[at] = m.mean;
    result.squares_[at] = m.squares;
  }
  result.count_ = count_ * (shape_.numel() / kept);
  return result;
}

Tensor RunningMoments::tensor_of(const std::vector<double>& values, double divisor) const {
  RAEDIT_CHECK(count_ > 0, {.code = ErrorCode::invalid_argument,
                            .what = "there is no mean or variance of nothing",
                            .where = "RunningMoments"});
  Tensor tensor = Tensor::from(values, shape_);
  for (int64_t i = 0; i < tensor.numel(); ++i) tensor.data<double>()[i] /= divisor;
  return tensor;
}

Tensor RunningMoments::mean() const {
  return tensor_of(mean_, 1.0);
}

Tensor RunningMoments::variance() const {
  return tensor_of(squares_, static_cast<double>(count_));
}

AutoencoderRAE open_raw_autoencoder(const std::string& folder, const LoadOptions& options) {
  models::ModelSource source = models::open_model(folder, "AutoencoderRAE", options);
  source.config["latents_mean"] = nullptr;
  source.config["latents_std"] = nullptr;
  source.config["scaling_factor"] = 1.0;
  source.weights = std::make_shared<ReplacedStatistics>(source.weights, Tensor::zeros({1}, DType::float32),
                                                        Tensor::full({1}, kNoDivisor));
  return AutoencoderRAE::from_source(source, options);
}

RunningMoments measure_latents(
    Context& ctx, const AutoencoderRAE& vae, std::shared_ptr<const data::PictureSet> set,
    const data::PictureTransform& transform, const EncodedPictures::Options& options,
    const std::function<void(int64_t done, int64_t total, const std::string& note)>& progress) {
  const AutoencoderRAEConfig& c = vae.config();
  const int64_t total = set->size();
  RunningMoments moments(c.reshape_to_2d ? Shape{c.encoder_hidden_size, c.grid(), c.grid()}
                                         : Shape{c.num_patches(), c.encoder_hidden_size});
  EncodedPictures pictures(ctx, vae, std::move(set), transform, {{0, total}}, options);
  int64_t done = 0;
  while (const std::optional<EncodedBatch> batch = pictures.next()) {
    const auto rows = static_cast<int64_t>(batch->class_ids.size());
    for (int64_t i = 0; i < rows; ++i)  // in an order that batches do not change
      for (const Tensor& latents : batch->latents) moments.add(latents.slice(0, i, i + 1));
    if (!progress) continue;
    for (const std::string& name : pictures.newly_broken()) progress(done, total, "skipped " + name);
    done += static_cast<int64_t>(batch->class_ids.size());
    progress(done, total, "");
  }
  return moments;
}

Tensor latents_std_of(const Tensor& variance, LatentsStd convention) {
  std::vector<float> std;
  for (const double x : variance.to_vector<double>()) {
    RAEDIT_CHECK(x >= 0 && std::isfinite(x), {.code = ErrorCode::invalid_argument,
                                              .what = "this is no variance",
                                              .where = "latents_std_of",
                                              .found = fmt::to_string(x)});
    std.push_back(static_cast<float>(std::sqrt(x + kEps) - (convention == LatentsStd::upstream ? kEps : 0.0)));
  }
  return Tensor::from(std, variance.shape());
}

}  // namespace raedit::train
