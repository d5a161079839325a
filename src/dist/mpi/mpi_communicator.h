// The ranks of MPI_COMM_WORLD.
#pragma once

#include "dist/communicator.h"

namespace raedit::dist::mpi {

// Begins MPI, which ends with the result. Throws Error(unsupported) when it was begun before.
Communicator* open_world();

}  // namespace raedit::dist::mpi
