// The sum of gradients over the ranks, which begins while the backward pass still runs: gradients are put into buckets,
// last parameters first as the backward pass comes to them, and a bucket is on its way when all in it are final.
// Source: Li et al., "PyTorch Distributed", https://arxiv.org/abs/2006.15704, section 3.2.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "dist/communicator.h"
#include "raedit/tensor.h"

namespace raedit::dist {

class GradientSum {
 public:
  static constexpr size_t kBucketBytes = size_t{16} << 20;

  // float32 storages in the order of the parameters, equally many and large on all ranks. On the host, large ones are
  // summed where they are; small ones, and those of a device, by way of buffers that stay.
  GradientSum(Communicator& ranks, std::vector<std::shared_ptr<Storage>> gradients, size_t bucket_bytes = kBucketBytes);

  // Nothing more is added to this gradient before finish().
  void ready(size_t index);
  // Begins what was not, and waits: every gradient is the sum over the ranks then.
  void finish();
  // Whether a gradient was ready since the last finish().
  bool begun() const { return begun_; }
  size_t buckets() const { return buckets_.size(); }

 private:
  struct Piece {
    size_t gradient, first, count;  // in elements
  };
  struct Bucket {
    std::vector<Piece> pieces;
    size_t count = 0;  // elements
    bool staged = true;
    size_t waiting = 0;  // pieces that are not ready
    std::vector<float> staging;
    std::unique_ptr<Request> request;
  };

  void make_buckets(size_t bucket_bytes);
  void expect_all();
  void begin(Bucket& bucket);
  void end(Bucket& bucket);

  Communicator& ranks_;
  std::vector<std::shared_ptr<Storage>> gradients_;
  std::vector<Bucket> buckets_;                  // in the order in which they begin
  std::vector<std::vector<size_t>> buckets_of_;  // of each gradient
  size_t next_ = 0;                              // the first that was not begun
  bool begun_ = false;
};

}  // namespace raedit::dist
