// raedit bench: one forward of a model of a published size with random weights, or of a model folder, against the
// ceiling that the same run measures, and beside PyTorch where that is wanted.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "backend/kernels.h"
#include "bench_pytorch.h"
#include "bench_workload.h"
#include "command.h"
#include "core/check.h"
#include "core/json.h"
#include "core/text.h"
#include "core/threads.h"
#include "measure.h"
#include "raedit/raedit.h"
#include "values.h"

namespace raedit::cli {
namespace {

const char* const kFooter =
    "Sizes: s and xl are the transformers DiT-DH-S and DiT-DH-XL at 256 pixels, decoder-xl the ViT-XL\n"
    "decoder, encoder-b the DINOv2-B encoder, all with random weights; bundled is the bundled transformer.\n"
    "--model also takes a transformer's config.json, which gets random weights.\n"
    "\n"
    "Examples:\n"
    "  raedit bench --size xl\n"
    "  raedit bench --size decoder-xl --dtype bfloat16 --json\n"
    "  raedit bench --size xl --dtype bfloat16 --quantize int8\n"
    "  raedit bench --model DIR --batch 4\n"
    "  raedit bench --size xl --dtype bfloat16 --compare-pytorch --python venv/bin/python";

struct BenchOptions {
  WorkloadOptions workload;
  int64_t runs = 5;
  bool json = false, cold = false, compare = false;
  ComparisonOptions comparison;
};

struct Result {
  double milliseconds = 0;
  double ceiling = 0;  // operations a second
};

// Twice the largest cache, which some virtual machines do not tell.
int64_t cold_bytes() {
  const int64_t cache = std::max<int64_t>(::sysconf(_SC_LEVEL3_CACHE_SIZE), ::sysconf(_SC_LEVEL2_CACHE_SIZE));
  return std::max<int64_t>(2 * cache, int64_t{256} << 20);
}

// Fills all caches with something else: every thread walks a buffer larger than the last-level cache.
class CacheWalk {
 public:
  CacheWalk(int64_t bytes, int threads) : words_(static_cast<size_t>(bytes) / sizeof(uint64_t)), threads_(threads) {}

  void run() {
    const size_t share = words_.size() / static_cast<size_t>(threads_);
    on_threads(threads_, [this, share](int t) {
      for (size_t i = 0; i < share; ++i) ++words_[static_cast<size_t>(t) * share + i];
    });
  }

 private:
  std::vector<uint64_t> words_;
  int threads_;
};

// Times forwards of a workload; the first ones warm caches and the arena and capture the graph.
class Timer {
 public:
  Timer(Context& ctx, const Workload& workload, bool cold) : ctx_(ctx), workload_(workload), replay_(workload.forward) {
    if (cold) walk_ = std::make_unique<CacheWalk>(cold_bytes(), ctx.threads());
    for (int i = 0; i < 3; ++i) forward();
    ctx_.synchronize();
  }

  void forward() { replay_.run(ctx_, workload_.inputs); }

  double milliseconds() {
    if (walk_ != nullptr) walk_->run();
    // Work that is queued takes a while to start: several forwards at a time, as in sampling.
    const int at_a_time = ctx_.has_graphs() ? 10 : 1;
    const Stopwatch watch;
    for (int k = 0; k < at_a_time; ++k) forward();
    ctx_.synchronize();
    return watch.seconds() * 1e3 / at_a_time;
  }

  std::vector<double> turn(const Turn& turn) {
    for (int i = 0; i < turn.warm; ++i) forward();
    std::vector<double> times;
    for (int i = 0; i < turn.timed; ++i) times.push_back(milliseconds());
    return times;
  }

 private:
  Context& ctx_;
  const Workload& workload_;
  ops::Replay replay_;
  std::unique_ptr<CacheWalk> walk_;
};

Json comparison_json(const Comparison& c, double ours) {
  Json peers = Json::array();
  for (const Peer& peer : c.peers) {
    Json one{{"name", peer.name}};
    if (!peer.absent.empty()) {
      one["absent"] = peer.absent;
    } else {
      const double theirs = median(peer.milliseconds);
      one.update({{"milliseconds", theirs}, {"ratio", theirs / ours}, {"amx", peer.amx}, {"kernels", peer.kernels}});
    }
    peers.push_back(one);
  }
  return {{"rounds", c.rounds}, {"peers", peers}, {"versions", c.versions}, {"isa", c.isa}};
}

void print_json(const BenchOptions& o, const Context& ctx, const Workload& workload, const Result& r,
                const Comparison& comparison) {
  const double rate = workload.flops / r.milliseconds * 1e3;
  Json result{{"model", workload.name},
              {"dtype", o.workload.dtype},
              {"quantize", o.workload.quantize.quantize},
              {"batch", o.workload.batch},
              {"device", ctx.description()},
              {"runs", o.runs},
              {"cold", o.cold},
              {"milliseconds", r.milliseconds},
              {"gflop", workload.flops * 1e-9},
              {"bytes", workload.bytes},
              {"tflops", rate * 1e-12},
              {"ceiling_tflops", r.ceiling * 1e-12},
              {"fraction", rate / r.ceiling},
              {"peak_bytes", peak_memory_bytes()}};
  if (o.compare) result["comparison"] = comparison_json(comparison, r.milliseconds);
  fmt::print("{}\n", result.dump(2, ' ', false, Json::error_handler_t::replace));
}

void print_comparison(const Comparison& c, double ours) {
  fmt::print("\n{:17} {:>10} {:>9}  {} rounds by turns, medians\n", "", "ms", "/ raedit", c.rounds);
  fmt::print("{:17} {:10.2f} {:9.2f}\n", "raedit", ours, 1.0);
  for (const Peer& peer : c.peers) {
    if (!peer.absent.empty()) {
      fmt::print("{:17} {:>10}            {}\n", peer.name, "absent", peer.absent);
      continue;
    }
    const double theirs = median(peer.milliseconds);
    fmt::print("{:17} {:10.2f} {:9.2f}  {}: {}\n", peer.name, theirs, theirs / ours, peer.amx ? "AMX" : "no AMX",
               peer.kernels.empty() ? "no oneDNN products" : join(peer.kernels));
  }
  fmt::print("{}, {}\n", c.versions, c.isa);
}

void print_text(const BenchOptions& o, const Context& ctx, const Workload& workload, const Result& r,
                const Comparison& comparison) {
  const double seconds = r.milliseconds * 1e-3, rate = workload.flops / seconds;
  fmt::print("{}, {}, batch {}, {}\n", workload.name, dtype_text(o.workload.dtype, o.workload.quantize),
             o.workload.batch, ctx.description());
  fmt::print("{:.2f} ms a forward (median of {}{}), {:.1f} GFLOP\n", r.milliseconds,
             o.compare ? static_cast<int64_t>(comparison.ours.size()) : o.runs, o.cold ? ", caches cold" : "",
             workload.flops * 1e-9);
  fmt::print(
      "{:.3f} TFLOP/s, {:.0f}% of the {:.3f} TFLOP/s that {}\n", rate * 1e-12, 100 * rate / r.ceiling,
      r.ceiling * 1e-12,
      ctx.has_graphs() ? "a large matrix product reaches" : "the inner product reaches from the first-level cache");
  const auto bytes = static_cast<double>(workload.bytes);
  fmt::print("reads {:.0f} MB at least: {:.1f} GB/s; peak memory {:.0f} MB\n", bytes * 1e-6, bytes / seconds * 1e-9,
             static_cast<double>(peak_memory_bytes()) * 1e-6);
  if (o.compare) print_comparison(comparison, r.milliseconds);
}

int run_bench(const BenchOptions& o) {
  const DType dtype = dtype_from_name(o.workload.dtype);
  const Device device = Device::from_name(o.workload.device);
  RAEDIT_CHECK(device.type == DeviceType::cpu || !(o.cold || o.compare),
               {.code = ErrorCode::invalid_argument,
                .what = fmt::format("{} is for the processor", o.cold ? "--cold" : "--compare-pytorch"),
                .where = "--device",
                .found = o.workload.device});
  const QuantizeOptions& quantize = o.workload.quantize;
  check_quantize_options(quantize, o.workload.device);
  RAEDIT_CHECK(quantize.calibration.empty() || o.workload.has_weights(),
               {.code = ErrorCode::invalid_argument,
                .what = "random weights have no calibration",
                .where = "--calibration",
                .found = quantize.calibration,
                .expected = "--model DIR, or --size bundled"});
  std::unique_ptr<Interrupt> interrupt;  // from before there is a process that must be ended
  std::unique_ptr<ChildProcess> peer;
  if (o.compare) interrupt = std::make_unique<Interrupt>();
  if (o.compare) peer = start_peer(o.comparison);
  Context ctx({.device = device, .threads = o.workload.threads});
  const Workload workload = make_workload(o.workload, ctx);
  Timer timer(ctx, workload, o.cold);
  const DType products = quantize.on() ? DType::int8 : dtype;
  // In between, since the machine's clock may drift meanwhile.
  std::vector<double> ceilings{ctx.kernels().ceiling_flops(products)};
  const auto our_turn = [&](const Turn& turn) {
    std::vector<double> times = timer.turn(turn);
    ceilings.push_back(ctx.kernels().ceiling_flops(products));
    return times;
  };
  Comparison comparison;
  std::vector<double> times;
  if (o.compare) {
    const ComparisonJob job{.workload = workload,
                            .dtype = o.workload.dtype,
                            .batch = o.workload.batch,
                            .threads = ctx.threads(),
                            .cold_bytes = o.cold ? cold_bytes() : 0,
                            .rounds = o.runs};
    comparison = compare_with_pytorch(*peer, o.comparison, job, *interrupt, our_turn);
    times = comparison.ours;
  } else {
    for (int64_t i = 0; i < o.runs; ++i) times.push_back(timer.milliseconds());
    ceilings.push_back(ctx.kernels().ceiling_flops(products));
  }
  const Result result{median(times), median(ceilings)};
  (o.json ? print_json : print_text)(o, ctx, workload, result, comparison);
  return kExitOk;
}

void add_comparison_options(CLI::App& app, BenchOptions& o) {
  add_switch(app, "--compare-pytorch", o.compare,
             "also time the reference in PyTorch (eager, compiled) and OpenVINO, by turns");
  app.add_option("--python", o.comparison.python,
                 "interpreter with torch and the reference's diffusers (default: RAEDIT_PYTHON, or else python3)")
      ->type_name("PROGRAM");
  app.add_option("--pytorch-script", o.comparison.script,
                 "PyTorch's side (default: RAEDIT_PYTORCH_SCRIPT, or else the bench_pytorch.py that came with raedit)")
      ->type_name("FILE");
  app.add_option("--pytorch-seconds", o.comparison.seconds,
                 "how long PyTorch may take to get ready; no round starts later")
      ->capture_default_str()
      ->check(whole_number(1, 86400));
  for (const char* name : {"--python", "--pytorch-script", "--pytorch-seconds"})
    app.get_option(name)->needs(app.get_option("--compare-pytorch"));
}

}  // namespace

Command add_bench(CLI::App& program) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* app = program.add_subcommand("bench", "Time one forward of a model against what the machine can do");
  app->footer(kFooter);
  auto* size = app->add_option("--size", options->workload.size, "s, xl, decoder-xl, encoder-b or bundled")
                   ->capture_default_str()
                   ->check(one_of({"s", "xl", "decoder-xl", "encoder-b", "bundled"}));
  add_model_options(*app, options->workload.model, "time the transformer of this model instead");
  app->get_option("--model")->excludes(size);
  app->add_option("--dtype", options->workload.dtype, "float32 or bfloat16")
      ->capture_default_str()
      ->check(one_of({"float32", "bfloat16"}));
  add_quantize_options(*app, options->workload.quantize);
  app->add_option("--batch", options->workload.batch, "pictures at once")
      ->capture_default_str()
      ->check(whole_number(1, 4096));
  app->add_option("--runs", options->runs,
                  "forwards to take the median of, after a warm-up; with --compare-pytorch rounds")
      ->capture_default_str()
      ->check(whole_number(1, 100000));
  app->add_option("--device", options->workload.device, "cpu, cuda or cuda:N")
      ->capture_default_str()
      ->check(device_name());
  app->add_option("--threads", options->workload.threads, "0: as many as the process may use")
      ->capture_default_str()
      ->check(whole_number(0, 4096));
  add_switch(*app, "--cold", options->cold, "empty the caches before every forward");
  add_comparison_options(*app, *options);
  add_switch(*app, "--json", options->json, "print one JSON object");
  return {app, [options] { return run_bench(*options); }};
}

}  // namespace raedit::cli
