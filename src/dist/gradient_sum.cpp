#include "dist/gradient_sum.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "tensor/memory.h"

namespace raedit::dist {
namespace {

constexpr size_t kInPlaceBytes = size_t{1} << 20;  // from here on, a message of its own costs less than a copy

std::byte* address(const Storage& storage, size_t element) {
  return storage.data() + element * sizeof(float);
}

}  // namespace

GradientSum::GradientSum(Communicator& ranks, std::vector<std::shared_ptr<Storage>> gradients, size_t bucket_bytes)
    : ranks_(ranks), gradients_(std::move(gradients)), buckets_of_(gradients_.size()) {
  RAEDIT_CHECK(bucket_bytes >= sizeof(float),
               {.code = ErrorCode::internal, .what = "buckets hold nothing", .where = "GradientSum"});
  make_buckets(bucket_bytes);
  expect_all();
}

void GradientSum::make_buckets(size_t bucket_bytes) {
  const size_t most = bucket_bytes / sizeof(float);
  Bucket open;
  for (size_t i = gradients_.size(); i-- > 0;) {
    const Storage& gradient = *gradients_[i];
    const size_t elements = gradient.bytes() / sizeof(float);
    const bool in_place = gradient.memory() == nullptr && gradient.bytes() >= kInPlaceBytes;
    for (size_t first = 0; first < elements;) {
      // In place: a bucket of its own, while the open one waits for more.
      const size_t room = in_place ? most : most - open.count;
      const Piece piece{i, first, std::min(elements - first, room)};
      first += piece.count;
      Bucket& bucket = in_place ? buckets_.emplace_back() : open;
      bucket.pieces.push_back(piece);
      bucket.count += piece.count;
      bucket.staged = !in_place;
      if (!in_place && open.count == most) buckets_.push_back(std::exchange(open, {}));
    }
  }
  if (open.count > 0) buckets_.push_back(std::move(open));
  for (size_t b = 0; b < buckets_.size(); ++b)
    for (const Piece& piece : buckets_[b].pieces) buckets_of_[piece.gradient].push_back(b);
}

void GradientSum::expect_all() {
  for (Bucket& bucket : buckets_) bucket.waiting = bucket.pieces.size();
  next_ = 0;
  begun_ = false;
}

void GradientSum::ready(size_t index) {
  begun_ = true;
  for (const size_t b : buckets_of_[index]) {
    RAEDIT_CHECK(buckets_[b].waiting > 0,
                 {.code = ErrorCode::internal, .what = "a gradient is final twice", .where = "GradientSum::ready"});
    --buckets_[b].waiting;
  }
  // In one order on all ranks, whatever becomes ready first.
  while (next_ < buckets_.size() && buckets_[next_].waiting == 0) begin(buckets_[next_++]);
  // Messages move on only while somebody asks for them.
  for (size_t b = 0; b < next_; ++b)
    if (buckets_[b].request != nullptr && buckets_[b].request->test()) end(buckets_[b]);
}

void GradientSum::finish() {
  while (next_ < buckets_.size()) begin(buckets_[next_++]);
  for (Bucket& bucket : buckets_) {
    if (bucket.request == nullptr) continue;
    bucket.request->wait();
    end(bucket);
  }
  expect_all();
}

void GradientSum::begin(Bucket& bucket) {
  const Piece& only = bucket.pieces.front();
  if (!bucket.staged) {
    auto* values = reinterpret_cast<float*>(address(*gradients_[only.gradient], only.first));
    bucket.request = ranks_.begin_all_reduce({values, bucket.count});
    return;
  }
  bucket.staging.resize(bucket.count);
  float* to = bucket.staging.data();
  for (const Piece& piece : bucket.pieces) {
    const Storage& gradient = *gradients_[piece.gradient];
    const size_t bytes = piece.count * sizeof(float);
    if (gradient.memory() != nullptr)
      gradient.memory()->to_host(to, address(gradient, piece.first), bytes);
    else
      std::memcpy(to, address(gradient, piece.first), bytes);
    to += piece.count;
  }
  bucket.request = ranks_.begin_all_reduce(bucket.staging);
}

// The sum goes back to where its parts came from.
void GradientSum::end(Bucket& bucket) {
  bucket.request = nullptr;
  if (!bucket.staged) return;
  const float* from = bucket.staging.data();
  for (const Piece& piece : bucket.pieces) {
    const Storage& gradient = *gradients_[piece.gradient];
    const size_t bytes = piece.count * sizeof(float);
    if (gradient.memory() != nullptr)
      gradient.memory()->from_host(address(gradient, piece.first), from, bytes);
    else
      std::memcpy(address(gradient, piece.first), from, bytes);
    from += piece.count;
  }
}

}  // namespace raedit::dist
