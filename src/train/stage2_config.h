// Options of a training run by name: the table that the command line and config files share, and upstream's training
// YAML. Source of what upstream's keys mean: bytetriper/RAE src/train.py, utils/optim_utils.py.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/json.h"
#include "train/stage2_options.h"

namespace raedit::train {

using OptionPointer =
    std::variant<bool*, int64_t*, double*, std::string*, std::optional<int64_t>*, std::optional<uint64_t>*,
                 std::optional<double>*, std::vector<int64_t>*, std::vector<std::string>*>;

// What an option may do when a run goes on from its checkpoint.
enum class OnResume {
  told,  // decides the numbers that come: another value is told
  kept,  // of the shuffle or the scheduler, which stay those of the first step
  free   // says where things are, how fast they go and what is written; or the checkpoint itself is compared with it
};

struct NamedOption {
  const char* name;  // the flag's, with underscores: "train_data_dir"
  OptionPointer value;
  OnResume on_resume = OnResume::told;
};

// Every field of `options`, in the order of the header.
std::vector<NamedOption> named_options(Stage2Options& options);

// The options called `names` become what they are in `from`, and what says the same in another way is taken back where
// it is not among them: a count of epochs for one of steps, one crop for the other.
void take_options(Stage2Options& to, const Stage2Options& from, const std::vector<std::string>& names);

// An object with names of options, underscores or dashes, at top level. Throws Error(format) for unknown names, naming
// the nearest, and for values of another type.
void read_options(const Json& config, const std::string& where, Stage2Options& options);

// As read_options() reads it; options that are not set are left out.
Json options_json(const Stage2Options& options);
// Of these, the ones that are not OnResume::free.
Json deciding_options(const Stage2Options& options);

// Whether it is upstream's (stage_2 and such at top level) rather than one of options.
bool is_upstream_training(const Json& yaml);

// What the diffusers layout makes of an upstream config: convert/upstream_config.h knows.
struct UpstreamModels {
  Json transformer;    // config.json of the transformer
  double shift = 1.0;  // of the scheduler
};

struct UpstreamTraining {
  std::vector<std::string> unused;  // keys that mean nothing here: "eval", "training.foo"
  // Given where the YAML names weights that must be converted before: the command that does it.
  std::string convert_autoencoder, convert_transformer;
};

// Upstream's defaults, too, where a key is missing. Throws Error(format) and Error(unsupported) naming the key.
UpstreamTraining read_upstream_training(const Json& yaml, const std::string& where, const UpstreamModels& models,
                                        Stage2Options& options);

// Turns global_batch_size, where there is one, into train_batch_size. Throws Error(invalid_argument) where the ranks'
// micro-batches cannot share it out evenly.
void share_out_batch(Stage2Options& options, int ranks);

}  // namespace raedit::train
