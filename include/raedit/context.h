// Context: everything that changes while a model runs. Models are const; one model serves many Contexts at once.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "raedit/export.h"
#include "raedit/progress.h"
#include "raedit/tensor.h"

namespace raedit {

class Arena;
class Tape;
namespace nn {
struct Parameter;
}
namespace backend {
class Kernels;
}

enum class DeviceType { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;  // of several GPUs
  // "cpu", "cuda" or "cuda:1". Throws Error(invalid_argument) for other names; whether the machine has the device shows
  // when a Context is made.
  RAEDIT_API static Device from_name(std::string_view name);
};

struct ContextOptions {
  Device device = {};
  int threads = 0;  // 0: as many as the process may use (affinity and OMP_NUM_THREADS respected)
  ProgressCallback progress = {};
  CancelToken cancel = {};
};

// The device's kernels, the arena that activations come from, the thread budget, progress and cancel of one request,
// and - only when training - the tape. Not thread-safe: one Context per thread or request.
class RAEDIT_API Context {
 public:
  explicit Context(ContextOptions options = {});
  ~Context();
  Context(Context&&) noexcept;
  Context& operator=(Context&&) noexcept;

  // Uninitialised / zeroed memory from the arena. The same sequence of calls gets the same addresses.
  Tensor empty(const Shape& shape, DType dtype);
  Tensor zeros(const Shape& shape, DType dtype);
  // The tensor itself when it is in the memory of this device, else a copy that is. Ops call it on every operand, so
  // host tensors may be passed anywhere; a gradient that the tape wants does not follow.
  Tensor here(const Tensor& tensor);

  const backend::Kernels& kernels() const;
  Arena& arena();
  int threads() const;
  Device device() const;
  // Whether the device has memory of its own and can replay what it did: what runs often is worth capturing there.
  bool has_graphs() const;
  // Waits until the device has done everything that was asked of it.
  void synchronize() const;
  // What runs and why, for people: "cpu, 2 threads, avx512 (bf16 dot product)".
  std::string description() const;

  // A place for what is worth keeping from request to request, empty at first. For the engine.
  std::shared_ptr<void>& kept(const std::string& key);

  // Null at inference: nothing is recorded. The tape is the caller's and must outlive its use here.
  Tape* tape() const;
  void set_tape(Tape* tape);

  // Sees what meets a matrix of a model: the matrix as the model holds it, and the rows [...,K]. For calibration.
  using InputObserver = std::function<void(const nn::Parameter& matrix, const Tensor& input)>;
  const InputObserver& input_observer() const;
  void set_input_observer(InputObserver observer);

  void report(const Progress& progress) const;
  // Throws Error(cancelled) once the token was used.
  void throw_if_cancelled() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace raedit
