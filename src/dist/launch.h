// How many ranks were started, as the environment that mpirun and srun leave says.
#pragma once

namespace raedit::dist {

// 1 where this process was started by itself, 0 where ranks were started and nothing says how many. Throws
// Error(unsupported) for tasks of srun that were given no way to find each other.
int started_ranks();

}  // namespace raedit::dist
