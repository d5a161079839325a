// Work is given out by picture, so that all workers help with the batch that is needed first. Everything that workers
// share is behind one mutex; pixels are written outside of it, each picture to its own part of the batch.
#include "data/picture_loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "core/check.h"
#include "core/text.h"
#include "core/threads.h"
#include "data/picture_transform.h"

namespace raedit::data {
namespace {

constexpr int kMaxWorkers = 1024;
constexpr int kMaxPrefetch = 1024;
constexpr int64_t kMaxResolution = 32768;
// A cancel token wakes nobody: who waits looks at it this often.
constexpr std::chrono::milliseconds kPoll{20};

constexpr std::array<std::pair<std::string_view, Crop>, 3> kCrops = {
    {{"random", Crop::random}, {"center", Crop::center}, {"adm", Crop::adm}}};

void check_transform(const PictureTransform& transform) {
  RAEDIT_CHECK(transform.resolution >= 1 && transform.resolution <= kMaxResolution,
               {.code = ErrorCode::invalid_argument,
                .what = "resolution of the pictures is wrong",
                .found = fmt::to_string(transform.resolution),
                .expected = fmt::format("1 to {}", kMaxResolution)});
}

Image transformed(const Image& image, const PictureRequest& request, const PictureTransform& transform) {
  Generator generator(request.seed);
  const auto size = static_cast<int>(transform.resolution);
  Image square;
  switch (transform.crop) {
    case Crop::random: square = random_crop(resize_shorter_side(image, size), size, generator); break;
    case Crop::center: square = center_crop(resize_shorter_side(image, size), size); break;
    case Crop::adm: square = adm_center_crop(image, size); break;
  }
  if (request.flip) return *request.flip ? horizontal_flip(square) : square;
  return transform.random_flip ? random_horizontal_flip(square, generator) : square;
}

// Whether it is the picture that is at fault. Files that cannot be read count: one bad sector is no reason to stop.
bool is_broken(ErrorCode code) {
  return code == ErrorCode::format || code == ErrorCode::unsupported || code == ErrorCode::io ||
         code == ErrorCode::not_found;
}

std::string reason(const std::string& name, const Error& error) {
  const std::string what = error.what();
  return what.starts_with(name) ? what : name + ": " + what;
}

struct Loaded {
  Tensor pixels;
  int64_t class_id = 0;
  std::vector<int64_t> skipped;
};

// A batch that was planned.
struct Slot {
  std::vector<PictureRequest> requests;
  PictureBatch batch;
  std::vector<std::vector<int64_t>> skipped;  // for each request
  size_t begun = 0, left = 0;                 // pictures that were given out, pictures that are not finished
  size_t failed = 0;                          // the first request that failed, where there is an error
  std::exception_ptr error;
};

}  // namespace

Crop crop_from_name(std::string_view name) {
  for (const auto& [known, crop] : kCrops)
    if (known == name) return crop;
  const std::vector<std::string> names = {"random", "center", "adm"};
  raise({.code = ErrorCode::invalid_argument,
         .what = "crop is unknown",
         .found = "'" + std::string(name) + "'",
         .expected = join(names, " or "),
         .hint = did_you_mean(name, names)});
}

std::string_view name_of(Crop crop) {
  for (const auto& [name, known] : kCrops)
    if (known == crop) return name;
  raise({.code = ErrorCode::invalid_argument,
         .what = "crop is unknown",
         .found = fmt::to_string(static_cast<int>(crop))});
}

std::string PictureTransform::describe() const {
  const std::string cut = crop == Crop::adm ? fmt::format("ADM center crop {} (box, bicubic)", resolution)
                                            : fmt::format("resize {} (bicubic), {} crop", resolution, name_of(crop));
  return random_flip ? cut + ", random flip" : cut;
}

Tensor load_picture(const PictureSet& set, const PictureRequest& request, const PictureTransform& transform) {
  check_transform(transform);
  RAEDIT_CHECK(request.index >= 0 && request.index < set.size(), {.code = ErrorCode::invalid_argument,
                                                                  .what = "there is no such picture in the set",
                                                                  .found = fmt::to_string(request.index),
                                                                  .expected = fmt::format("0 to {}", set.size() - 1)});
  const Image image = set.picture(request.index);
  try {
    return to_tensor(transformed(image, request, transform));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::invalid_argument) throw;
    raise({.code = ErrorCode::unsupported,
           .what = "picture cannot be brought to the resolution: " + error.info().what,
           .where = set.name(request.index),
           .found = fmt::format("{} x {}", image.width, image.height),
           .expected = fmt::format("one that can be {} x {}", transform.resolution, transform.resolution)});
  }
}

struct PictureLoader::State {
  using Lock = std::unique_lock<std::mutex>;

  State(std::shared_ptr<const PictureSet> pictures, const PictureTransform& picture_transform, Plan batch_plan,
        const PictureLoaderOptions& loader_options, CancelToken cancel_token)
      : set(std::move(pictures)),
        transform(picture_transform),
        plan(std::move(batch_plan)),
        options(loader_options),
        cancel(std::move(cancel_token)),
        window(options.workers == 0 ? 1 : static_cast<size_t>(std::max(1, options.prefetch))) {}

  ~State() { stop(); }

  void start() {
    try {
      for (int i = 0; i < options.workers; ++i) workers.emplace_back([this] { begin_worker(); });
    } catch (const std::system_error& error) {
      raise_no_threads("threads that load pictures", workers.size(), options.workers, error.what());
    }
  }

  void stop() {
    {
      const Lock lock(mutex);
      stopping = true;
    }
    work_wake.notify_all();
    for (std::thread& worker : workers) worker.join();
    workers.clear();
  }

  void begin_worker() {
    if (options.worker_begins) options.worker_begins();
    work();
  }

  void work() {
    Lock lock(mutex);
    for (;;) {
      work_wake.wait(lock, [&] { return stopping || open_slot() != nullptr || may_plan(); });
      if (stopping || cancel.cancelled()) return;
      step(lock);
    }
  }

  Slot* open_slot() {
    const auto open = [](const Slot& slot) { return slot.begun < slot.requests.size(); };
    const auto found = std::find_if(slots.begin(), slots.end(), open);
    return found == slots.end() ? nullptr : &*found;
  }
  bool may_plan() const { return !planning && !ended && slots.size() < window; }

  // What is to be done next; the lock is open meanwhile.
  void step(Lock& lock) {
    if (Slot* slot = open_slot())
      load_into(*slot, lock);
    else if (may_plan())
      plan_next(lock);
  }

  void plan_next(Lock& lock) {
    planning = true;
    const int64_t k = planned++;
    lock.unlock();
    Slot slot;
    try {
      slot.requests = plan(k);
      slot.left = slot.requests.size();
      slot.skipped.resize(slot.left);
      slot.batch.class_ids.resize(slot.left);
      const int64_t B = static_cast<int64_t>(slot.left), S = transform.resolution;
      if (B > 0) slot.batch.pixels = Tensor::empty({B, 3, S, S}, DType::float32);
    } catch (...) {
      slot = Slot{};
      slot.error = std::current_exception();
    }
    lock.lock();
    planning = false;
    ended = slot.requests.empty();
    slots.push_back(std::move(slot));
    work_wake.notify_all();
    done_wake.notify_all();
  }

  // Elements of a deque stay where they are while others come and go at its ends, and a slot with pictures left does
  // not go.
  void load_into(Slot& slot, Lock& lock) {
    const size_t i = slot.begun++;
    const bool needed = slot.error == nullptr || i < slot.failed;
    lock.unlock();
    Loaded loaded;
    std::exception_ptr error;
    try {
      if (needed) loaded = load(slot.requests[i]);
      if (needed)
        std::memcpy(slot.batch.pixels.raw() + i * loaded.pixels.nbytes(), loaded.pixels.raw(), loaded.pixels.nbytes());
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    slot.batch.class_ids[i] = loaded.class_id;
    slot.skipped[i] = std::move(loaded.skipped);
    if (error != nullptr && (slot.error == nullptr || i < slot.failed)) {
      slot.error = error;
      slot.failed = i;
    }
    if (--slot.left == 0) done_wake.notify_all();
  }

  // Called without the lock.
  Loaded load(PictureRequest request) {
    Loaded loaded;
    const int64_t first = request.index;
    for (int64_t tried = 0; tried == 0 || tried < set->size(); ++tried) {
      RAEDIT_CHECK(!stopping && !cancel.cancelled(),
                   {.code = ErrorCode::cancelled, .what = "loading of pictures was cancelled"});
      if (!is_known_broken(request.index)) {
        try {
          loaded.pixels = load_picture(*set, request, transform);
          loaded.class_id = set->class_id(request.index);
          return loaded;
        } catch (const Error& error) {
          if (!options.skip_broken || !is_broken(error.code())) throw;
          const Lock lock(mutex);
          known_broken.emplace(request.index, reason(set->name(request.index), error));
        }
      }
      loaded.skipped.push_back(request.index);
      request.index = (request.index + 1) % set->size();
    }
    const Lock lock(mutex);
    raise({.code = ErrorCode::format,
           .what = "no picture of the set can be read",
           .found = known_broken.at(first),
           .hint = "all of them are broken, or none is of a kind that can be read"});
  }

  bool is_known_broken(int64_t index) {
    const Lock lock(mutex);
    return known_broken.contains(index);
  }

  std::optional<PictureBatch> next() {
    Lock lock(mutex);
    while (failure == nullptr && (slots.empty() || slots.front().left > 0)) {
      if (cancel.cancelled()) break;
      if (options.workers == 0)
        step(lock);
      else
        done_wake.wait_for(lock, kPoll);
    }
    if (failure == nullptr && cancel.cancelled())
      fail(std::make_exception_ptr(Error({.code = ErrorCode::cancelled, .what = "loading of pictures was cancelled"})));
    if (failure == nullptr && slots.front().error != nullptr) fail(slots.front().error);
    if (failure != nullptr) std::rethrow_exception(failure);
    Slot& slot = slots.front();
    if (slot.requests.empty()) return std::nullopt;
    // In the order of the requests, with the batch that is handed out: so the list does not depend on how far ahead
    // workers are.
    for (const std::vector<int64_t>& skipped : slot.skipped)
      for (const int64_t index : skipped)
        if (told.insert(index).second) broken.push_back(known_broken.at(index));
    PictureBatch batch = std::move(slot.batch);
    slots.pop_front();
    work_wake.notify_all();
    return batch;
  }

  // For good: every later next() says the same.
  void fail(std::exception_ptr error) {
    failure = std::move(error);
    stopping = true;
    work_wake.notify_all();
  }

  const std::shared_ptr<const PictureSet> set;
  const PictureTransform transform;
  const Plan plan;
  const PictureLoaderOptions options;
  const CancelToken cancel;
  const size_t window;  // batches that are planned and not handed out, at most

  std::mutex mutex;
  std::condition_variable work_wake, done_wake;
  std::atomic<bool> stopping = false;  // changed under the mutex
  bool planning = false, ended = false;
  int64_t planned = 0;
  std::deque<Slot> slots;
  std::exception_ptr failure;
  std::map<int64_t, std::string> known_broken;  // and why
  std::set<int64_t> told;                       // those in `broken`
  std::vector<std::string> broken;
  std::vector<std::thread> workers;
};

PictureLoader::PictureLoader(std::shared_ptr<const PictureSet> set, const PictureTransform& transform, Plan plan,
                             const PictureLoaderOptions& options, CancelToken cancel) {
  check_transform(transform);
  (void)name_of(transform.crop);
  RAEDIT_CHECK(set != nullptr && plan != nullptr,
               {.code = ErrorCode::invalid_argument, .what = "a picture loader needs a set and a plan"});
  RAEDIT_CHECK(options.workers >= 0 && options.workers <= kMaxWorkers && options.prefetch >= 0 &&
                   options.prefetch <= kMaxPrefetch,
               {.code = ErrorCode::invalid_argument,
                .what = "workers or batches ahead are wrong",
                .found = fmt::format("{} workers, {} batches", options.workers, options.prefetch),
                .expected = fmt::format("0 to {} of both", kMaxWorkers)});
  state_ = std::make_unique<State>(std::move(set), transform, std::move(plan), options, std::move(cancel));
  state_->start();
}

PictureLoader::~PictureLoader() = default;

std::optional<PictureBatch> PictureLoader::next() {
  return state_->next();
}

std::vector<std::string> PictureLoader::broken() const {
  const std::lock_guard lock(state_->mutex);
  return state_->broken;
}

}  // namespace raedit::data
