// Sources: Linux, admin-guide/cgroup-v2 ("cpu.max") and scheduler/sched-bwc (cpu.cfs_quota_us); proc(5) for mountinfo.
#include "backend/device/processors.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string_view>
#include <vector>

#include "core/text.h"

namespace raedit {
namespace {

constexpr size_t kMostBytes = size_t{4} << 20;  // of a table of mounts
constexpr size_t kMostPath = 4096;              // Linux's PATH_MAX

std::string read_some(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  char piece[4096];
  while (text.size() < kMostBytes && (file.read(piece, sizeof piece), file.gcount() > 0))
    text.append(piece, static_cast<size_t>(file.gcount()));
  return text;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

bool lists(std::string_view names, std::string_view name) {
  const std::vector<std::string_view> all = split(names, ',');
  return std::find(all.begin(), all.end(), name) != all.end();
}

// mountinfo writes blanks and backslashes as a backslash and three octal digits.
std::string unescaped(std::string_view text) {
  const auto octal = [&](size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '7'; };
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i)
    if (text[i] == '\\' && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  return plain;
}

struct Mount {
  int version;
  std::string root, point;  // the group that is mounted, and where
};

// Where groups that limit processor time can be read.
std::vector<Mount> cpu_mounts(const std::string& file) {
  std::vector<Mount> mounts;
  const std::string text = read_some(file);
  for (const std::string_view line : split(text, '\n')) {
    const size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    const std::vector<std::string_view> place = split(line.substr(0, dash), ' ');
    const std::vector<std::string_view> kind = split(line.substr(dash + 3), ' ');
    if (place.size() < 5 || kind.size() < 3) continue;
    const bool v2 = kind[0] == "cgroup2", v1 = kind[0] == "cgroup" && lists(kind[2], "cpu");
    if (v1 || v2) mounts.push_back({v2 ? 2 : 1, unescaped(place[3]), unescaped(place[4])});
  }
  return mounts;
}

// The process's group in the hierarchy of that version: "/" and more.
std::optional<std::string> group_of(const std::string& text, int version) {
  for (const std::string_view line : split(text, '\n')) {
    const size_t first = line.find(':');
    const size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view names = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (version == 2 ? names.empty() && line.substr(0, first) == "0" : lists(names, "cpu")) return std::string(path);
  }
  return std::nullopt;
}

// The group's path below the mount. A container may see the path as the host does, or none of it: then all that can be
// read is the mount itself.
std::string below(const Mount& mount, const std::string& group) {
  std::string path = group;
  if (path.size() > kMostPath) return "";
  if (mount.root != "/") {
    if (!group.starts_with(mount.root)) return "";
    path = group.substr(mount.root.size());
    if (!path.empty() && path.front() != '/') return "";
  }
  const std::vector<std::string_view> parts = split(path, '/');
  if (std::find(parts.begin(), parts.end(), "..") != parts.end()) return "";
  while (path.ends_with('/')) path.pop_back();
  return path;
}

std::optional<double> quotient(std::string_view quota, std::string_view period) {
  const auto q = number_of<int64_t>(quota), p = number_of<int64_t>(period);
  if (!q || !p || *q <= 0 || *p <= 0) return std::nullopt;
  return static_cast<double>(*q) / static_cast<double>(*p);
}

std::string first_line(const std::string& path) {
  const std::string text = read_some(path);
  return text.substr(0, text.find('\n'));
}

std::optional<double> quota_of(const std::string& folder, int version) {
  if (version == 1)
    return quotient(first_line(folder + "/cpu.cfs_quota_us"), first_line(folder + "/cpu.cfs_period_us"));
  const std::string line = first_line(folder + "/cpu.max");
  const std::vector<std::string_view> words = split(line, ' ');
  return words.size() == 2 ? quotient(words[0], words[1]) : std::nullopt;
}

}  // namespace

std::optional<double> cgroup_quota(const CgroupFiles& files) {
  const std::string groups = read_some(files.groups);
  std::optional<double> least;
  for (const Mount& mount : cpu_mounts(files.mounts)) {
    const std::optional<std::string> group = group_of(groups, mount.version);
    if (!group) continue;
    // A group has what it and all above it allow.
    for (std::string path = below(mount, *group);; path.erase(path.rfind('/'))) {
      const std::optional<double> quota = quota_of(mount.point + path, mount.version);
      if (quota && (!least || *quota < *least)) least = quota;
      if (path.rfind('/') == std::string::npos) break;
    }
  }
  return least;
}

int processors_within(int affinity, std::optional<double> quota) {
  const int most = std::max(1, affinity);
  return quota && *quota < most ? std::max(1, static_cast<int>(std::ceil(*quota))) : most;
}

int usable_processors() {
  static const std::optional<double> quota = cgroup_quota();
  return processors_within(omp_get_num_procs(), quota);
}

void begin_background_thread() {
  if (omp_get_num_places() == 0) return;
  cpu_set_t all;
  CPU_ZERO(&all);
  std::vector<int> ids;
  for (int place = 0; place < omp_get_num_places(); ++place) {
    ids.resize(static_cast<size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, ids.data());
    for (const int id : ids)
      if (id >= 0 && id < CPU_SETSIZE) CPU_SET(id, &all);
  }
  ::sched_setaffinity(0, sizeof all, &all);
}

}  // namespace raedit
