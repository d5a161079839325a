// Pictures read, decoded, cut and flipped by worker threads, ahead of who needs them and in the order they are asked
// for. What a picture becomes depends on its request alone, never on workers or timing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/picture_set.h"
#include "raedit/progress.h"
#include "raedit/tensor.h"

namespace raedit::data {

enum class Crop { random, center, adm };
// "random", "center" or "adm". Throws Error(invalid_argument).
Crop crop_from_name(std::string_view name);
std::string_view name_of(Crop crop);

// random and center: the shorter side is resized to `resolution` first (Pillow's bicubic), as torchvision does in the
// trainers of diffusers; adm: upstream's adm_center_crop.
struct PictureTransform {
  int64_t resolution = 256;
  Crop crop = Crop::random;
  bool random_flip = false;  // one of two, before to_tensor

  // One line that says all of it: part of what a latent cache was made from.
  std::string describe() const;
};

struct PictureRequest {
  int64_t index = 0;              // into the set
  uint64_t seed = 0;              // of a Generator that crop and flip draw from, in this order
  std::optional<bool> flip = {};  // given: flipped or not, and nothing is drawn for it
};

struct PictureBatch {
  Tensor pixels;                   // [B,3,S,S] float32 in [0,1]
  std::vector<int64_t> class_ids;  // of the pictures that are there, also where one stands in for a broken one
};

struct PictureLoaderOptions {
  int workers = 4;   // 0: the caller's thread decodes when asked
  int prefetch = 2;  // batches ahead
  // A picture that cannot be read is counted, named once, and replaced by the next one in the set that can; else it is
  // an Error.
  bool skip_broken = false;
  std::function<void()> worker_begins = {};  // the first call of every worker; must not throw
};

class PictureLoader {
 public:
  // `plan(k)` is what batch k holds, k = 0, 1, 2, ...; called from workers, one call at a time, k ascending. An empty
  // one ends it. `set` and whatever plan uses must outlive this.
  using Plan = std::function<std::vector<PictureRequest>(int64_t k)>;
  PictureLoader(std::shared_ptr<const PictureSet> set, const PictureTransform& transform, Plan plan,
                const PictureLoaderOptions& options, CancelToken cancel = {});
  ~PictureLoader();
  PictureLoader(const PictureLoader&) = delete;
  PictureLoader& operator=(const PictureLoader&) = delete;

  // The next batch, or nothing behind the last one. Throws what went wrong with the first of its pictures that could
  // not be read, Error(cancelled), or, with skip_broken, Error(format) when no picture of the set can be read.
  std::optional<PictureBatch> next();

  // What was skipped so far: "NAME: why", each picture once.
  std::vector<std::string> broken() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// One picture, as the loader makes it: [3,S,S] float32 in [0,1].
Tensor load_picture(const PictureSet& set, const PictureRequest& request, const PictureTransform& transform);

}  // namespace raedit::data
