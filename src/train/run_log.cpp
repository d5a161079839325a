#include "train/run_log.h"

#include <filesystem>

#include "io/files.h"

namespace raedit::train {
namespace fs = std::filesystem;

namespace {

std::string metrics_path(const std::string& output_dir) {
  return (fs::path(output_dir) / "metrics.jsonl").string();
}

}  // namespace

RunLog::RunLog(const std::string& output_dir, const std::string& events, std::optional<int64_t> resume_step)
    : output_dir_(output_dir), events_folder_(events) {
  const std::string path = metrics_path(output_dir);
  metrics_.emplace(resume_step && is_file(path) ? MetricsFile::resume(path, *resume_step) : MetricsFile::create(path));
  if (!events.empty()) events_ = std::make_unique<EventFile>(events, resume_step);
}

void RunLog::step(const StepReport& r) {
  metrics_->append(Json{{"step", r.step},
                        {"epoch", r.epoch},
                        {"loss", r.loss},
                        {"lr", r.lr},
                        {"grad_norm", r.grad_norm},
                        {"images_per_second", r.images_per_second}});
  if (!events_) return;
  events_->add_scalars(r.step, {{"loss", static_cast<float>(r.loss)},
                                {"lr", static_cast<float>(r.lr)},
                                {"grad_norm", static_cast<float>(r.grad_norm)},
                                {"images_per_second", static_cast<float>(r.images_per_second)}});
}

void RunLog::skipped(int64_t step, const std::string& module, double loss) {
  metrics_->append(Json{{"step", step}, {"skipped", module}, {"loss", loss}});
}

void RunLog::restored(int64_t step, double lr_factor, const std::string& module, double loss) {
  metrics_.emplace(MetricsFile::resume(metrics_path(output_dir_), step));
  if (events_) events_ = std::make_unique<EventFile>(events_folder_, step);
  metrics_->append(
      Json{{"step", step}, {"restored", true}, {"lr_factor", lr_factor}, {"skipped", module}, {"loss", loss}});
}

void RunLog::pictures(int64_t step, const std::string& folder, size_t count) {
  if (!events_) return;
  for (size_t i = 0; i < count; ++i) {
    const std::string name = "image-" + std::to_string(i);
    events_->add_png(step, "validation/" + name, read_file((fs::path(folder) / (name + ".png")).string()));
  }
}

}  // namespace raedit::train
