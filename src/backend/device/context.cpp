#include "raedit/context.h"

#include <fmt/format.h>

#include <cstring>
#include <map>
#include <optional>

#include "backend/device/device.h"
#include "core/check.h"
#include "tensor/arena.h"
#include "tensor/memory.h"

namespace raedit {
namespace {

// What context_on() hands to the constructor, which is public and knows devices alone.
thread_local std::unique_ptr<backend::Kernels> handed_over;

}  // namespace

struct Context::State {
  ContextOptions options;
  int threads = 1;
  std::unique_ptr<backend::Kernels> kernels;
  std::optional<Arena> arena;
  Tape* tape = nullptr;
  InputObserver input_observer;
  std::map<std::string, std::shared_ptr<void>> kept;
};

Context::Context(ContextOptions options) : state_(std::make_unique<State>()) {
  constexpr int kMostThreads = 4096;
  RAEDIT_CHECK(options.threads >= 0 && options.threads <= kMostThreads,
               {.code = ErrorCode::invalid_argument,
                .what = "the number of threads is out of range",
                .where = "threads",
                .found = fmt::to_string(options.threads),
                .expected = "1 to 4096, or 0 for all"});
  state_->threads = options.threads == 0 ? available_threads() : options.threads;
  state_->kernels = handed_over != nullptr ? std::move(handed_over) : make_kernels(options.device, state_->threads);
  state_->arena.emplace(state_->kernels->memory());
  state_->options = std::move(options);
}

Context context_on(std::unique_ptr<backend::Kernels> kernels) {
  struct Scope {
    ~Scope() { handed_over = nullptr; }  // where no context was made of them
  } const scope;
  handed_over = std::move(kernels);
  return Context({.threads = 1});
}

Context::~Context() = default;
Context::Context(Context&&) noexcept = default;
Context& Context::operator=(Context&&) noexcept = default;

Tensor Context::empty(const Shape& shape, DType dtype) {
  const size_t bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
  return Tensor(state_->arena->allocate(bytes), 0, shape, dtype);
}

Tensor Context::zeros(const Shape& shape, DType dtype) {
  Tensor tensor = empty(shape, dtype);
  if (const auto& memory = tensor.storage()->memory())
    memory->zero(tensor.raw(), tensor.nbytes());
  else
    std::memset(tensor.raw(), 0, tensor.nbytes());
  return tensor;
}

Tensor Context::here(const Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  const bool host = state_->kernels->memory() == nullptr;
  if (host == tensor.on_host()) return tensor;
  if (host) return tensor.cpu();
  const Tensor copy = empty(tensor.shape(), tensor.dtype());
  copy.copy_from(tensor);
  return copy;
}

const backend::Kernels& Context::kernels() const {
  return *state_->kernels;
}
Arena& Context::arena() {
  return *state_->arena;
}
int Context::threads() const {
  return state_->threads;
}
Device Context::device() const {
  return state_->options.device;
}
bool Context::has_graphs() const {
  return state_->kernels->memory() != nullptr;
}
void Context::synchronize() const {
  state_->kernels->synchronize();
}
std::string Context::description() const {
  return state_->kernels->description();
}
std::shared_ptr<void>& Context::kept(const std::string& key) {
  return state_->kept[key];
}
Tape* Context::tape() const {
  return state_->tape;
}
void Context::set_tape(Tape* tape) {
  state_->tape = tape;
}
const Context::InputObserver& Context::input_observer() const {
  return state_->input_observer;
}
void Context::set_input_observer(InputObserver observer) {
  state_->input_observer = std::move(observer);
}

void Context::report(const Progress& progress) const {
  if (state_->options.progress) state_->options.progress(progress);
}

void Context::throw_if_cancelled() const {
  if (state_->options.cancel.cancelled()) raise({.code = ErrorCode::cancelled, .what = "cancelled by the caller"});
}

}  // namespace raedit
