// Sources: mpirun(1) of Open MPI ("Exported Environment Variables"), the PMI of MPICH's Hydra, srun(1) ("--mpi" and
// "OUTPUT ENVIRONMENT VARIABLES").
#include "dist/launch.h"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "dist/plugin.h"

namespace raedit::dist {
namespace {

bool is_set(const char* name) {
  return std::getenv(name) != nullptr;
}

std::optional<int> number(const char* name) {
  const char* text = std::getenv(name);
  int value = 0;
  if (text == nullptr || std::from_chars(text, text + std::strlen(text), value).ec != std::errc() || value < 1)
    return {};
  return value;
}

}  // namespace

int started_ranks() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"})
    if (const auto size = number(name)) return *size;
  // Only srun sets the tasks of a step; a batch script has those of its job, and is alone.
  const auto tasks = number("SLURM_STEP_NUM_TASKS");
  if (is_set("PMIX_RANK") || is_set("PMI_RANK")) return tasks.value_or(number("SLURM_NTASKS").value_or(0));
  if (tasks.value_or(1) > 1 && is_set("SLURM_PROCID"))
    refuse("srun started several tasks without a way to find each other", "srun --mpi=pmix, or --mpi=pmi2");
  return 1;
}

}  // namespace raedit::dist
