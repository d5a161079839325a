#include "ops/replay.h"

#include <map>

#include "core/check.h"
#include "tensor/arena.h"

namespace raedit::ops {

void Replay::set_inputs(Context& ctx, const std::vector<Tensor>& inputs) {
  if (inputs_.empty())
    for (const Tensor& input : inputs) inputs_.push_back(ctx.empty(input.shape(), input.dtype()));
  for (size_t i = 0; i < inputs.size(); ++i) {
    RAEDIT_CHECK(inputs[i].shape() == inputs_[i].shape() && inputs[i].dtype() == inputs_[i].dtype(),
                 {.code = ErrorCode::internal,
                  .what = "an input has changed its shape or type",
                  .where = "Replay",
                  .found = inputs[i].shape().str(),
                  .expected = inputs_[i].shape().str()});
    if (inputs[i].on_host())
      inputs_[i].copy_from(inputs[i]);
    else
      ctx.kernels().copy(inputs[i], inputs_[i]);
  }
}

namespace {

// While it lives, the context lends blocks that only captured steps use: what a graph writes to must not be lent to
// anybody else between two launches. Of all Replays of the context: they run one after another.
class ScratchOfGraphs {
 public:
  explicit ScratchOfGraphs(Context& ctx) : used_(ctx.arena()) {
    std::shared_ptr<void>& place = ctx.kept("scratch of graphs");
    if (place == nullptr) {
      auto made = std::make_shared<Arena>(ctx.kernels().memory());
      made->keep_blocks();
      place = made;
    }
    scratch_ = std::static_pointer_cast<Arena>(place);
    used_.swap(*scratch_);
  }
  ~ScratchOfGraphs() { used_.swap(*scratch_); }
  ScratchOfGraphs(const ScratchOfGraphs&) = delete;
  ScratchOfGraphs& operator=(const ScratchOfGraphs&) = delete;

 private:
  Arena& used_;
  std::shared_ptr<Arena> scratch_;
};

}  // namespace

const Tensor& Replay::run(Context& ctx, const std::vector<Tensor>& inputs) {
  if (ctx.kernels().memory() == nullptr) return output_ = work_(ctx, inputs);
  set_inputs(ctx, inputs);
  if (runs_++ == 0) {
    const ScratchOfGraphs scratch(ctx);
    output_ = work_(ctx, inputs_);
    return output_;
  }
  if (graph_ == nullptr) {
    // The result outlives the launches of other graphs, so it is not among what they write to.
    output_ = ctx.empty(output_.shape(), output_.dtype());
    const ScratchOfGraphs scratch(ctx);
    graph_ = ctx.kernels().capture([&] { ctx.kernels().copy(work_(ctx, inputs_), output_); });
  }
  if (graph_ != nullptr)
    graph_->launch();
  else
    output_ = work_(ctx, inputs_);
  return output_;
}

Replay& kept_replay(Context& ctx, const std::string& key, const std::function<Replay::Work()>& make) {
  constexpr size_t kMost = 16;  // each holds its inputs, its result and a graph
  using Kept = std::map<std::string, Replay>;
  std::shared_ptr<void>& place = ctx.kept("replay");
  if (place == nullptr) place = std::make_shared<Kept>();
  Kept& kept = *std::static_pointer_cast<Kept>(place);
  const auto found = kept.find(key);
  if (found != kept.end()) return found->second;
  if (kept.size() >= kMost) kept.clear();
  return kept.emplace(key, Replay(make())).first->second;
}

}  // namespace raedit::ops
