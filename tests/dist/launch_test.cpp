// What the environment says of ranks, and what happens where they were started and there is no MPI.
#include "dist/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>

#include "dist/communicator.h"
#include "unit/expect_error.h"

namespace raedit::dist {
namespace {

class Launch : public ::testing::Test {
 protected:
  void SetUp() override { clear(); }
  void TearDown() override { clear(); }
  static void set(const std::map<std::string, std::string>& environment) {
    clear();
    for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
  }
  static void clear() {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK", "SLURM_NTASKS",
                             "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "RAEDIT_MPI_LIBRARY"})
      ::unsetenv(name);
  }
};

TEST_F(Launch, IsInTheEnvironment) {
  EXPECT_EQ(started_ranks(), 1);
  set({{"OMPI_COMM_WORLD_SIZE", "3"}, {"PMIX_RANK", "0"}});
  EXPECT_EQ(started_ranks(), 3);
  set({{"PMI_SIZE", "5"}, {"PMI_RANK", "2"}});
  EXPECT_EQ(started_ranks(), 5);
  set({{"PMIX_RANK", "1"}, {"SLURM_NTASKS", "8"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "1"}});
  EXPECT_EQ(started_ranks(), 4);
  set({{"PMIX_RANK", "1"}});
  EXPECT_EQ(started_ranks(), 0);
  set({{"OMPI_COMM_WORLD_SIZE", "many"}});
  EXPECT_EQ(started_ranks(), 1);
}

TEST_F(Launch, ABatchScriptIsAloneAndTasksWithoutPmiAreRefused) {
  set({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}});
  EXPECT_EQ(started_ranks(), 1);
  EXPECT_EQ(open_communicator()->size(), 1);
  set({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "3"}, {"SLURM_STEP_NUM_TASKS", "8"}});
  EXPECT_RAEDIT_ERROR(open_communicator(), ErrorCode::unsupported, "without a way to find each other", "--mpi=pmix");
}

TEST_F(Launch, ManyRanksNeedMpi) {
  set({{"OMPI_COMM_WORLD_SIZE", "2"}, {"RAEDIT_MPI_LIBRARY", "/nowhere/libraedit_mpi.so"}});
  EXPECT_RAEDIT_ERROR(open_communicator(), ErrorCode::unsupported, "cannot work together", "/nowhere/libraedit_mpi.so",
                      "RAEDIT_MPI=ON");
  // One alone does not look for it.
  set({{"OMPI_COMM_WORLD_SIZE", "1"}, {"RAEDIT_MPI_LIBRARY", "/nowhere/libraedit_mpi.so"}});
  EXPECT_EQ(open_communicator()->size(), 1);
}

}  // namespace
}  // namespace raedit::dist
