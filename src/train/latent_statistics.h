// Mean and variance of an autoencoder's latents over a whole picture set, and the autoencoder's folder with them.
// Replaces bytetriper/RAE src/calculate_stat.py, whose exponential window forgets all but the last batches: these are
// the exact ones. Sources: B. P. Welford, Technometrics 4 (1962); Chan, Golub, LeVeque, The American Statistician 37
// (1983).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "raedit/convert.h"
#include "train/encoded_pictures.h"

namespace raedit::train {

// For each element of a shape the mean and the sum of squared deviations, in float64. One example after another, so
// the result does not depend on how they come in batches.
class RunningMoments {
 public:
  explicit RunningMoments(const Shape& shape);

  // Floating point [B, shape]. Throws Error(not_finite) and then keeps what it had.
  void add(const Tensor& batch);
  // As if the examples of `other` had been added. Throws Error(invalid_argument) for another shape.
  void merge(const RunningMoments& other);
  // Over all elements that share their place in dimension `dim`; the others become 1.
  RunningMoments over_all_but(int dim) const;

  int64_t count() const { return count_; }  // of examples behind each element
  const Shape& shape() const { return shape_; }
  // float64. Throw Error(invalid_argument) while there are no examples.
  Tensor mean() const;
  Tensor variance() const;  // of the population: divided by count(), as upstream's

 private:
  Tensor tensor_of(const std::vector<double>& values, double divisor) const;

  Shape shape_;
  std::vector<double> mean_, squares_;
  int64_t count_ = 0;
};

// An AutoencoderRAE whose encode() gives just what its encoder does: without latents_mean, latents_std and
// scaling_factor, and without the 1e-5 that is added to a standard deviation of 1. Nothing has to be undone.
AutoencoderRAE open_raw_autoencoder(const std::string& folder, const LoadOptions& options);

// Of shape [C,h,w] (or [N,C]), over every picture, and with options.flips its mirror image, too. A broken picture that
// is skipped counts as the one that stands in, as in training. `progress`: pictures done, and of all; called with what
// is to be told, too.
RunningMoments measure_latents(
    Context& ctx, const AutoencoderRAE& vae, std::shared_ptr<const data::PictureSet> set,
    const data::PictureTransform& transform, const EncodedPictures::Options& options,
    const std::function<void(int64_t done, int64_t total, const std::string& note)>& progress = {});

// latents_std, float32: the root of a variance, as a conversion takes it (docs/conversion.md, "Two epsilons").
Tensor latents_std_of(const Tensor& variance, LatentsStd convention);

// The autoencoder in `from` with other statistics, in `config.json` and as buffers; every other tensor, key and small
// file is as it was. `to` must not exist or be empty, and then appears whole or not at all.
void save_with_statistics(const std::string& from, const std::string& to, const Tensor& mean, const Tensor& std);

// Throws Error(invalid_argument) where save_with_statistics would refuse `to`.
void require_new_folder(const std::string& to);

}  // namespace raedit::train
