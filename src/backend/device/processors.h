// How many processors this process may use, and threads that work beside OpenMP's team.
#pragma once

#include <optional>
#include <string>

namespace raedit {

// The files that say which control groups the process is in and where these are mounted. Tests name their own.
struct CgroupFiles {
  std::string groups = "/proc/self/cgroup";
  std::string mounts = "/proc/self/mountinfo";
};

// The smallest quota of processor time, in processors, that the process's control groups (version 1 or 2) or those
// above them have; nothing where there is none. What cannot be read or understood is no limit.
std::optional<double> cgroup_quota(const CgroupFiles& files = {});

// The affinity mask and the quota, rounded up; at least 1.
int processors_within(int affinity, std::optional<double> quota);

// Of this process, as the calling thread sees it: its affinity mask, or all of OMP_PLACES where OpenMP bound the thread
// to one of them; and the quota that held when this was first called.
int usable_processors();

// For a thread that prepares work beside the team, as its first call. A thread inherits the processors of the one that
// starts it, and OpenMP may have bound that one to a single processor (OMP_PROC_BIND): this one gets all of the
// process's. Failing is harmless.
void begin_background_thread();

}  // namespace raedit
