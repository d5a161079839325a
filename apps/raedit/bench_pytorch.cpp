#include "bench_pytorch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "core/check.h"
#include "core/text.h"
#include "io/files.h"
#include "measure.h"

namespace raedit::cli {
namespace fs = std::filesystem;
namespace {

constexpr const char* kScript = "bench_pytorch.py";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string find_script(const ComparisonOptions& options) {
  const std::string from_environment = variable("RAEDIT_PYTORCH_SCRIPT");
  const std::string& named = options.script.empty() ? from_environment : options.script;
  if (!named.empty()) {
    RAEDIT_CHECK(is_file(named), {.code = ErrorCode::not_found,
                                  .what = "no such file",
                                  .where = options.script.empty() ? "RAEDIT_PYTORCH_SCRIPT" : "--pytorch-script",
                                  .found = named});
    return named;
  }
  std::vector<std::string> tried;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) tried.push_back((program.parent_path() / RAEDIT_TOOLS_FROM_BIN / kScript).lexically_normal().string());
  tried.push_back((fs::path(RAEDIT_SOURCE_TOOLS) / kScript).string());
  for (const std::string& path : tried)
    if (is_file(path)) return path;
  raise({.code = ErrorCode::not_found,
         .what = "PyTorch's side of the comparison is not there",
         .found = "nothing in " + join(tried, " nor "),
         .hint = "name it with --pytorch-script or RAEDIT_PYTORCH_SCRIPT"});
}

[[noreturn]] void raise_nonsense(const ChildProcess& child, const std::string& line, const std::string& expected) {
  raise({.code = ErrorCode::format,
         .what = "the answer makes no sense",
         .where = child.name(),
         .found = line.substr(0, 200),
         .expected = expected});
}

std::string text_of(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

Peer parse_peer(const Json& json) {
  Peer peer;
  peer.name = text_of(json, "name");
  peer.absent = text_of(json, "absent");
  peer.amx = json.value("amx", false);
  if (const auto kernels = json.find("kernels"); kernels != json.end())
    peer.kernels = kernels->get<std::vector<std::string>>();
  return peer;
}

void parse_hello(const ChildProcess& child, const std::string& line, Comparison& result) {
  try {
    const Json json = Json::parse(line);
    for (const Json& peer : json.at("peers")) result.peers.push_back(parse_peer(peer));
    result.versions = text_of(json, "versions");
    result.isa = text_of(json, "isa");
  } catch (const Json::exception&) {
    raise_nonsense(child, line, "a JSON object with peers");
  }
  const auto nameless = [](const Peer& peer) { return peer.name.empty(); };
  if (result.peers.empty() || std::ranges::any_of(result.peers, nameless))
    raise_nonsense(child, line, "peers with names");
}

std::vector<double> parse_times(const ChildProcess& child, const std::string& line, const Turn& turn) {
  const std::string expected = fmt::format("a JSON object with {} milliseconds above 0", turn.timed);
  std::vector<double> times;
  try {
    times = Json::parse(line).at("milliseconds").get<std::vector<double>>();
  } catch (const Json::exception&) {
    raise_nonsense(child, line, expected);
  }
  const auto wrong = [](double ms) { return !(ms > 0 && std::isfinite(ms)); };
  if (static_cast<int>(times.size()) != turn.timed || std::ranges::any_of(times, wrong))
    raise_nonsense(child, line, expected);
  return times;
}

void append(std::vector<double>& all, const std::vector<double>& more) {
  all.insert(all.end(), more.begin(), more.end());
}

}  // namespace

std::unique_ptr<ChildProcess> start_peer(const ComparisonOptions& options) {
  std::string python = options.python;
  if (python.empty()) python = variable("RAEDIT_PYTHON");
  if (python.empty()) python = "python3";
  return std::make_unique<ChildProcess>(std::vector<std::string>{python, find_script(options)}, peer_environment(),
                                        "--python or RAEDIT_PYTHON");
}

std::map<std::string, std::string> peer_environment() {
  // AVX512_CORE_BF16 has the dot product that our avx512 uses where the processor has it, and not AMX.
  static const std::map<std::string, std::pair<const char*, const char*>> kLevels = {
      {"avx512", {"avx512", "AVX512_CORE_BF16"}}, {"avx2", {"avx2", "AVX2"}}, {"sse2", {"default", "SSE41"}}};
  std::map<std::string, std::string> environment;
  const auto level = kLevels.find(variable("RAEDIT_FORCE_ISA"));
  if (level == kLevels.end()) return environment;
  if (variable("ATEN_CPU_CAPABILITY").empty()) environment["ATEN_CPU_CAPABILITY"] = level->second.first;
  if (variable("ONEDNN_MAX_CPU_ISA").empty()) environment["ONEDNN_MAX_CPU_ISA"] = level->second.second;
  return environment;
}

Comparison compare_with_pytorch(ChildProcess& child, const ComparisonOptions& options, const ComparisonJob& job,
                                const Interrupt& interrupt,
                                const std::function<std::vector<double>(const Turn&)>& ours) {
  const Stopwatch watch;
  const auto limit = static_cast<double>(options.seconds);
  child.write_line(Json{
      {"part", job.workload.part},
      {"config", job.workload.config},
      {"dtype", job.dtype},
      {"batch", job.batch},
      {"threads", job.threads},
      {"cold_bytes", job.cold_bytes},
      {"seconds",
       0.9 * limit}}.dump());
  Comparison result;
  parse_hello(child, child.read_line(limit, interrupt), result);
  const Turn turn{.warm = job.cold_bytes > 0 ? 0 : 1};
  while (result.rounds < job.rounds && (result.rounds == 0 || watch.seconds() < limit)) {
    interrupt.throw_if_cancelled();
    append(result.ours, ours(turn));
    for (Peer& peer : result.peers) {
      if (!peer.absent.empty()) continue;
      child.write_line(Json{{"turn", peer.name}, {"warm", turn.warm}, {"timed", turn.timed}}.dump());
      append(peer.milliseconds, parse_times(child, child.read_line(limit, interrupt), turn));
    }
    ++result.rounds;
  }
  return result;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

}  // namespace raedit::cli
