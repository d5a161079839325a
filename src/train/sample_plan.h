// Which picture comes when, and what is drawn for it. The data are one endless stream: every epoch is a shuffle of its
// own of all pictures, and epochs follow each other without a gap, also within a batch. Place and seeds of a sample
// depend on the run's seed and its position in the stream alone, so a run that goes on after a stop, or on another
// number of ranks, sees what it would have seen.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

namespace raedit::train {

struct Sample {
  int64_t picture = 0;        // index into the set
  uint64_t picture_seed = 0;  // for crop and flip
  uint64_t noise_seed = 0;    // for time, label dropout and noise
};

class SamplePlan {
 public:
  SamplePlan(int64_t pictures, uint64_t seed) : pictures_(pictures), seed_(seed) {}

  // May be called from many threads; quick as long as positions stay near each other.
  Sample at(int64_t position) const;

  int64_t pictures() const { return pictures_; }

 private:
  struct Epoch {
    int64_t number = -1;
    std::vector<uint32_t> order;
  };

  const int64_t pictures_;
  const uint64_t seed_;
  mutable std::mutex mutex_;
  mutable Epoch epochs_[2];  // even and odd ones: a batch may touch two
};

// The splitmix64 of (seed, a, b): streams that have nothing to do with each other. Steele et al., OOPSLA 2014.
uint64_t mix_seed(uint64_t seed, uint64_t a, uint64_t b);

// The global batch of a step, cut into micro-batches and ranks: micro-batch m of rank r begins behind those of all
// ranks before it, so that the samples of a step do not depend on how it is cut.
struct BatchCut {
  int64_t batch = 1;  // of one rank and micro-batch
  int64_t accumulation = 1;
  int64_t rank = 0, ranks = 1;

  int64_t global_batch() const { return batch * accumulation * ranks; }
  // Of rank's k-th micro-batch behind position `start`, which begins a step.
  int64_t position(int64_t start, int64_t k) const { return start + (k * ranks + rank) * batch; }
};

}  // namespace raedit::train
