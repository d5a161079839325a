// raedit bench --compare-pytorch: PyTorch's time for the same forward, by turns with ours. Its side is
// tools/bench_pytorch.py, which says there how the two talk.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bench_workload.h"
#include "child_process.h"

namespace raedit::cli {

struct ComparisonOptions {
  std::string python;     // empty: RAEDIT_PYTHON, or else python3
  std::string script;     // empty: RAEDIT_PYTORCH_SCRIPT, or else the installed one or that of the source tree
  int64_t seconds = 600;  // that PyTorch may take to get ready, and no new round starts later than that
};

// What one side does before the other one runs.
struct Turn {
  int warm = 1;   // forwards before those that count
  int timed = 2;  // forwards that count
};

struct Peer {
  std::string name;
  std::string absent;  // why it has no times
  bool amx = false;
  std::vector<std::string> kernels;  // matrix products that it ran
  std::vector<double> milliseconds;
};

struct Comparison {
  int64_t rounds = 0;
  std::vector<double> ours;  // milliseconds
  std::vector<Peer> peers;
  std::string versions, isa;
};

// Starts the script, which then waits for its job: what is missing shows before a model is loaded, and threads of ours
// that are bound to processors later do not bind it. Throws Error(not_found) for the interpreter, or naming every place
// where the script was looked for.
std::unique_ptr<ChildProcess> start_peer(const ComparisonOptions& options);

// What the script's process gets so that its libraries use what RAEDIT_FORCE_ISA leaves us. Only what is not set yet.
std::map<std::string, std::string> peer_environment();

struct ComparisonJob {
  const Workload& workload;
  std::string dtype;
  int64_t batch = 1;
  int threads = 1;
  int64_t cold_bytes = 0;  // above 0: walked before every timed forward
  int64_t rounds = 5;
};

// Runs `ours` (milliseconds of a turn's timed forwards) and the script's peers by turns.
Comparison compare_with_pytorch(ChildProcess& child, const ComparisonOptions& options, const ComparisonJob& job,
                                const Interrupt& interrupt,
                                const std::function<std::vector<double>(const Turn&)>& ours);

double median(std::vector<double> values);

}  // namespace raedit::cli
