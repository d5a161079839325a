// cuBLASLt speaks column-major. A row-major matrix [r,c] with leading dimension ld is, in its words, the column-major
// [c,r] with the same ld: its own transpose. So out = a b is asked for as out^T = b^T a^T, with b as the first operand:
// m and n change places, and an operand that is transposed in row-major words is read with op T.
#include "backend/cuda/gemm_cache.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"

namespace raedit::backend::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{64} << 20;
constexpr double kWorthTiming = 1e8;                 // operations; below, the first proposal is as good as any
constexpr int64_t kWorthReading = int64_t{1} << 20;  // numbers of a weight
constexpr int kCandidates = 16;
constexpr const char* kFileHead = "raedit gemm choices 1";

using Algo = cublasLtMatmulAlgo_t;
using Key = std::array<int64_t, 16>;

// What a Runtime keeps for its products.
struct GemmState {
  void* workspace = nullptr;
  ~GemmState() { (void)cudaFree(workspace); }
};

void* workspace_of(const Runtime& rt) {
  std::shared_ptr<void>& kept = rt.gemm_state();
  if (kept == nullptr) {
    RAEDIT_CHECK(!capturing(rt), {.code = ErrorCode::internal,
                                  .what = "the first product of a device cannot be part of a captured step",
                                  .hint = "run the step once before it is captured"});
    auto state = std::make_shared<GemmState>();
    check(cudaMalloc(&state->workspace, kWorkspaceBytes), "cudaMalloc of the workspace of cuBLASLt");
    kept = state;
  }
  return static_cast<GemmState*>(kept.get())->workspace;
}

cudaDataType type_of(DType dtype) {
  return dtype == DType::bfloat16 ? CUDA_R_16BF : CUDA_R_32F;
}

uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<uintptr_t>(address) | 16;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// ---- a call in cuBLASLt's words

struct Problem {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t first, second, out;
  float beta = 0.0f;
  Key key{};
};

template <class T>
void set(Problem& problem, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(&problem.operation, attribute, &value, sizeof(value)),
        "cublasLtMatmulDescSetAttribute");
}

void describe(cublasLtMatrixLayoutOpaque_t& layout, DType dtype, int64_t rows, int64_t columns, int64_t ld) {
  check(cublasLtMatrixLayoutInit(&layout, type_of(dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                                 ld),
        "cublasLtMatrixLayoutInit");
}

Problem problem_of(const GemmCall& call) {
  Problem p;
  check(cublasLtMatmulDescInit(&p.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescInit");
  const GemmOperand &a = call.a, &b = call.b;
  set(p, CUBLASLT_MATMUL_DESC_TRANSA, b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(p, CUBLASLT_MATMUL_DESC_TRANSB, a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (call.bias != nullptr) {
    set(p, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, call.bias);
    set(p, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(type_of(call.out_dtype)));
  }
  // What is stored: b row-major [k,n] is column-major [n,k]; b transposed is row-major [n,k], column-major [k,n].
  describe(p.first, b.dtype, b.transposed ? call.k : call.n, b.transposed ? call.n : call.k, b.ld);
  describe(p.second, a.dtype, a.transposed ? call.m : call.k, a.transposed ? call.k : call.m, a.ld);
  describe(p.out, call.out_dtype, call.n, call.m, call.ldo);
  p.beta = call.accumulate ? 1.0f : 0.0f;
  p.key = {call.m,
           call.n,
           call.k,
           a.transposed,
           b.transposed,
           static_cast<int64_t>(a.dtype),
           static_cast<int64_t>(call.out_dtype),
           a.ld,
           b.ld,
           call.ldo,
           call.accumulate,
           call.bias == nullptr ? 0 : alignment_of(call.bias),
           alignment_of(a.data),
           alignment_of(b.data),
           alignment_of(call.out),
           static_cast<int64_t>(b.dtype)};
  return p;
}

cublasStatus_t run(const Runtime& rt, Problem& p, const GemmCall& call, const Algo& algo, void* out) {
  const float one = 1.0f;
  return cublasLtMatmul(rt.cublas(), &p.operation, &one, call.b.data, &p.first, call.a.data, &p.second, &p.beta, out,
                        &p.out, out, &p.out, &algo, workspace_of(rt), kWorkspaceBytes, rt.stream());
}

struct Preference {
  cublasLtMatmulPreferenceOpaque_t value;

  explicit Preference(const GemmCall& call) {
    check(cublasLtMatmulPreferenceInit(&value), "cublasLtMatmulPreferenceInit");
    put(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
    // Partial sums stay float32: a bfloat16 result is rounded once.
    put(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    put(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(call.b.data));
    put(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(call.a.data));
    put(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(call.out));
    put(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(call.out));
  }
  template <class T>
  void put(cublasLtMatmulPreferenceAttributes_t attribute, const T& setting) {
    check(cublasLtMatmulPreferenceSetAttribute(&value, attribute, &setting, sizeof(setting)),
          "cublasLtMatmulPreferenceSetAttribute");
  }
};

std::vector<Algo> proposals(const Runtime& rt, const GemmCall& call, Problem& p) {
  Preference preference(call);
  cublasLtMatmulHeuristicResult_t results[kCandidates];
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(rt.cublas(), &p.operation, &p.first, &p.second, &p.out,
                                                               &p.out, &preference.value, kCandidates, results, &count);
  std::vector<Algo> algos;
  if (status != CUBLAS_STATUS_SUCCESS) return algos;
  for (int i = 0; i < count; ++i)
    if (results[i].state == CUBLAS_STATUS_SUCCESS && results[i].workspaceSize <= kWorkspaceBytes)
      algos.push_back(results[i].algo);
  return algos;
}

// ---- timing

using Work = std::function<bool()>;  // false: it refuses

// Short work is timed with cold caches, one run at a time: in a model, the weights of a product were last read a whole
// pass ago. Reading a lot before each run also keeps the queue full, so that no launch is waited for.
class Timer {
 public:
  explicit Timer(const Runtime& rt)
      : rt_(rt), bytes_(2 * std::max<size_t>(static_cast<size_t>(rt.properties().l2CacheSize), size_t{1} << 20)) {
    for (cudaEvent_t& event : events_) check(cudaEventCreate(&event), "cudaEventCreate");
    check(cudaMallocAsync(&other_, bytes_, rt.stream()), "memory for timing products");
    check(cudaMemsetAsync(other_, 0, bytes_, rt.stream()), "memory for timing products");
  }
  ~Timer() {
    for (const cudaEvent_t event : events_) (void)cudaEventDestroy(event);
    (void)cudaFreeAsync(other_, rt_.stream());
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // Milliseconds of one run, nothing when it refuses.
  std::optional<float> time(const Work& work) {
    if (!work()) return std::nullopt;  // loads the code, which can take longer than the product
    const std::optional<float> first = warm(work, 1);
    if (!first || *first > 5.0f) return first;
    return *first > 1.0f ? warm(work, 3) : cold(work);
  }

 private:
  static constexpr size_t kRuns = 7;

  std::optional<float> warm(const Work& work, int repeats) {
    check(cudaEventRecord(events_[0], rt_.stream()), "cudaEventRecord");
    for (int i = 0; i < repeats; ++i)
      if (!work()) return std::nullopt;
    check(cudaEventRecord(events_[1], rt_.stream()), "cudaEventRecord");
    return elapsed(0) / static_cast<float>(repeats);
  }

  std::optional<float> cold(const Work& work) {
    for (size_t i = 0; i < kRuns; ++i) {
      read_all(rt_, other_, bytes_);
      check(cudaEventRecord(events_[2 * i], rt_.stream()), "cudaEventRecord");
      if (!work()) return std::nullopt;
      check(cudaEventRecord(events_[2 * i + 1], rt_.stream()), "cudaEventRecord");
    }
    std::array<float, kRuns> times{};
    for (size_t i = 0; i < kRuns; ++i) times[i] = elapsed(i);
    std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
    return times[kRuns / 2];
  }

  float elapsed(size_t run) {
    check(cudaEventSynchronize(events_[2 * run + 1]), "timing of products");
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, events_[2 * run], events_[2 * run + 1]), "cudaEventElapsedTime");
    return milliseconds;
  }

  const Runtime& rt_;
  std::array<cudaEvent_t, 2 * kRuns> events_{};
  void* other_ = nullptr;
  size_t bytes_;
};

// Where products go while they are timed: they may not be added to `out` again and again.
class Scratch {
 public:
  Scratch(const Runtime& rt, const GemmCall& call) : stream_(rt.stream()), out_(call.out) {
    if (!call.accumulate) return;
    const auto bytes = static_cast<size_t>((call.m - 1) * call.ldo + call.n) * size_of(call.out_dtype);
    check(cudaMallocAsync(&memory_, bytes, stream_), "memory for timing products");
    check(cudaMemsetAsync(memory_, 0, bytes, stream_), "memory for timing products");
    out_ = memory_;
  }
  ~Scratch() {
    if (memory_ != nullptr) (void)cudaFreeAsync(memory_, stream_);
  }
  void* out() const { return out_; }

 private:
  cudaStream_t stream_;
  void* memory_ = nullptr;
  void* out_;
};

// Earlier ones win where the difference is noise: they are the likelier ones.
class Best {
 public:
  bool improves(std::optional<float> time) {
    if (!time || (best_ && *time > 0.98f * *best_)) return false;
    best_ = time;
    return true;
  }

 private:
  std::optional<float> best_;
};

std::optional<Algo> fastest(const Runtime& rt, Problem& p, const GemmCall& call, const std::vector<Algo>& algos) {
  Timer timer(rt);
  const Scratch scratch(rt, call);
  Best best;
  std::optional<Algo> winner;
  for (const Algo& algo : algos)
    if (best.improves(timer.time([&] { return run(rt, p, call, algo, scratch.out()) == CUBLAS_STATUS_SUCCESS; })))
      winner = algo;
  return winner;
}

const Way* fastest(const Runtime& rt, std::span<const Way> ways) {
  Timer timer(rt);
  Best best;
  const Way* winner = &ways.front();
  for (const Way& way : ways)
    if (best.improves(timer.time(way.run))) winner = &way;
  (void)cudaGetLastError();  // of one that refused
  return winner;
}

Key key_of(const WayKey& key) {
  Key whole{};
  std::copy(key.begin(), key.end(), whole.begin());
  whole.back() = 1000;  // where keys of calls have a dtype
  return whole;
}

// ---- what was chosen before

class Choices {
 public:
  explicit Choices(const Runtime& rt) : file_(file_for(rt)) {
    const char* tune = std::getenv("RAEDIT_GEMM_TUNE");
    tune_ = tune == nullptr || std::strcmp(tune, "0") != 0;
    read(on_disk_);
  }

  // The algorithm for this call, or nothing where there is none.
  std::optional<Algo> choose(const Runtime& rt, const GemmCall& call, Problem& p) {
    const std::lock_guard lock(mutex_);
    if (const auto known = chosen_.find(p.key); known != chosen_.end()) return known->second;
    if (const auto saved = on_disk_.find(p.key); saved != on_disk_.end() && still_works(rt, p, saved->second))
      return chosen_[p.key] = saved->second;
    const std::vector<Algo> algos = proposals(rt, call, p);
    if (algos.empty()) return chosen_[p.key] = std::nullopt;
    if (!tune_ || !worth_timing(call.m, call.n, call.k) || algos.size() == 1 || capturing(rt))
      return chosen_[p.key] = algos.front();
    const std::optional<Algo> best = fastest(rt, p, call, algos);
    chosen_[p.key] = best;
    if (best) save(p.key, *best);
    return best;
  }

  const Way& choose(const Runtime& rt, const WayKey& way_key, bool worth, std::span<const Way> ways) {
    const std::lock_guard lock(ways_mutex_);
    const Key key = key_of(way_key);
    const auto find = [&](uint64_t number) {
      const auto found = std::find_if(ways.begin(), ways.end(), [&](const Way& w) { return w.number == number; });
      return found != ways.end() ? &*found : nullptr;
    };
    if (const auto known = ways_.find(key); known != ways_.end())
      if (const Way* way = find(known->second)) return *way;
    const Way* way = find(saved_way(key));
    if (way == nullptr && worth && tune_ && !capturing(rt)) {
      way = fastest(rt, ways);
      const std::lock_guard disk_lock(mutex_);
      save(key, {{way->number}});
    }
    if (way == nullptr) way = &ways.front();
    ways_[key] = way->number;
    return *way;
  }

  void forget(const Key& key) {
    const std::lock_guard lock(mutex_);
    chosen_[key] = std::nullopt;
  }

 private:
  using Table = std::map<Key, Algo>;

  uint64_t saved_way(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto saved = on_disk_.find(key);
    return saved != on_disk_.end() ? saved->second.data[0] : 0;
  }

  static std::filesystem::path file_for(const Runtime& rt) {
    std::filesystem::path folder;
    if (const char* named = std::getenv("RAEDIT_CACHE_DIR"); named != nullptr && *named != '\0')
      folder = named;
    else if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0')
      folder = std::filesystem::path(home) / ".cache" / "raedit";
    else
      return {};
    std::string name = rt.properties().name;
    for (char& c : name)
      if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '-';
    return folder / ("gemm-" + name + "-" + std::to_string(cublasLtGetVersion()) + ".txt");
  }

  static bool still_works(const Runtime& rt, Problem& p, const Algo& algo) {
    cublasLtMatmulHeuristicResult_t result;
    return cublasLtMatmulAlgoCheck(rt.cublas(), &p.operation, &p.first, &p.second, &p.out, &p.out, &algo, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= kWorkspaceBytes;
  }

  // Lines of the key's numbers and the algorithm's eight words. What cannot be read is as good as not there.
  void read(Table& table) const {
    std::ifstream in(file_);
    std::string line;
    if (!in || !std::getline(in, line) || line != kFileHead) return;
    while (std::getline(in, line)) {
      std::istringstream words(line);
      Key key;
      Algo algo;
      for (int64_t& number : key) words >> number;
      for (uint64_t& word : algo.data) words >> std::hex >> word;
      if (words && (words >> std::ws).eof()) table[key] = algo;
    }
  }

  // Another process may have written since: its choices stay. A cache that cannot be written is not an error.
  void save(const Key& key, const Algo& algo) {
    if (file_.empty()) return;
    read(on_disk_);
    on_disk_[key] = algo;
    std::error_code error;
    std::filesystem::create_directories(file_.parent_path(), error);
    std::filesystem::path part = file_;
    part += fmt::format(".{}", ::getpid());
    std::ofstream out(part, std::ios::trunc);
    out << kFileHead << '\n';
    for (const auto& [numbers, choice] : on_disk_) {
      for (const int64_t number : numbers) out << std::dec << number << ' ';
      for (const uint64_t word : choice.data) out << std::hex << word << ' ';
      out << '\n';
    }
    out.close();
    if (out) std::filesystem::rename(part, file_, error);
    if (!out || error) std::filesystem::remove(part, error);
  }

  std::filesystem::path file_;
  bool tune_ = true;
  std::mutex mutex_;
  std::map<Key, std::optional<Algo>> chosen_;
  Table on_disk_;
  std::mutex ways_mutex_;  // before mutex_
  std::map<Key, uint64_t> ways_;
};

// One for each kind of device in the process.
Choices& choices_for(const Runtime& rt) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<Choices>> all;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Choices>& choices = all[rt.properties().name];
  if (choices == nullptr) choices = std::make_unique<Choices>(rt);
  return *choices;
}

}  // namespace

bool capturing(const Runtime& rt) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(rt.stream(), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

bool worth_timing(int64_t m, int64_t n, int64_t k) {
  // Little arithmetic can still be a lot of memory.
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) >= kWorthTiming ||
         n * k >= kWorthReading;
}

void run_fastest(const Runtime& rt, const WayKey& key, bool worth, std::span<const Way> ways) {
  if (ways.size() > 1 && choices_for(rt).choose(rt, key, worth, ways).run()) return;
  (void)ways.front().run();
}

#ifdef RAEDIT_CUDA_SM90A
void add_own_ways(const Runtime& rt, const sm90a::Problem& problem, std::vector<Way>& ways) {
  static const std::string_view wish = [] {
    const char* own = std::getenv("RAEDIT_GEMM_OWN");
    return std::string_view(own != nullptr ? own : "");
  }();
  const bool plain = problem.epilogue == sm90a::Epilogue::bias;  // which cuBLASLt has, too, and as a rule faster
  if (plain ? wish != "1" : wish == "0") return;
  if (!sm90a::supported(problem)) return;
  for (const sm90a::Config& config : sm90a::configs()) {
    // By its name, which outlives a change of the table (FNV-1a).
    uint64_t number = 0xcbf29ce484222325u;
    for (const char* c = config.name; *c != '\0'; ++c)
      number = (number ^ static_cast<unsigned char>(*c)) * 0x100000001b3u;
    ways.push_back({number, [&rt, &problem, &config] {
                      if (sm90a::run(rt.stream(), problem, config) != cudaSuccess) return false;
                      rt.launched("gemm_sm90a");
                      return true;
                    }});
  }
}
#else
void add_own_ways(const Runtime&, const sm90a::Problem&, std::vector<Way>&) {}
#endif

bool cublas_gemm(const Runtime& rt, const GemmCall& call) {
  (void)workspace_of(rt);
  Problem p = problem_of(call);
  Choices& choices = choices_for(rt);
  const std::optional<Algo> algo = choices.choose(rt, call, p);
  if (!algo) return false;
  const cublasStatus_t status = run(rt, p, call, *algo, call.out);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE ||
      status == CUBLAS_STATUS_ARCH_MISMATCH) {
    choices.forget(p.key);
    return false;
  }
  check(status, "cublasLtMatmul");
  rt.launched("cublasLtMatmul");
  return true;
}

}  // namespace raedit::backend::cuda
