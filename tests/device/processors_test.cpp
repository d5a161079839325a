// The processors that a process may use, with made-up control groups, and threads beside the team.
#include "backend/device/processors.h"

#include <gtest/gtest.h>
#include <omp.h>
#include <sched.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "backend/device/device.h"

namespace raedit {
namespace {

namespace fs = std::filesystem;

class CgroupQuota : public ::testing::Test {
 protected:
  CgroupQuota() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / ("raedit-cgroup-" + std::string(test->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~CgroupQuota() override { fs::remove_all(folder_); }

  // Below the scratch folder.
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  void put(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(path(name)).parent_path());
    std::ofstream(path(name), std::ios::binary) << text;
  }
  static std::string mounted(const std::string& root, const std::string& point, const std::string& kind) {
    return "31 23 0:28 " + root + " " + point + " rw,relatime shared:7 - " + kind + "\n";
  }
  std::optional<double> quota() const { return cgroup_quota({path("groups"), path("mounts")}); }
  // The quota with this cpu.max in the only group there is.
  std::optional<double> quota_where(const std::string& text) const {
    put("groups", "0::/\n");
    put("mounts", mounted("/", path("unified"), "cgroup2 cgroup2 rw"));
    put("unified/cpu.max", text);
    return quota();
  }

  fs::path folder_;
};

TEST_F(CgroupQuota, Version2TakesTheSmallestOnTheWayUp) {
  put("groups", "0::/user/job/task\n");
  put("mounts",
      "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounted("/", path("unified"), "cgroup2 cgroup2 rw,nsdelegate"));
  put("unified/user/job/task/cpu.max", "800000 100000\n");
  EXPECT_EQ(quota(), 8.0);
  put("unified/user/job/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), 8.0);
  put("unified/user/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota(), 1.5);
  put("unified/other/cpu.max", "1000 100000\n");  // not on the way
  EXPECT_EQ(quota(), 1.5);
  put("unified/cpu.max", "20000 50000\n");
  EXPECT_EQ(quota(), 0.4);
}

TEST_F(CgroupQuota, Version1) {
  put("groups", "9:name=systemd:/x\n3:cpuset:/set\n2:cpu,cpuacct:/docker/abc\n0::/y\n");
  put("mounts", mounted("/", path("cpuset"), "cgroup cgroup rw,cpuset") +
                    mounted("/", path("cpu"), "cgroup cgroup rw,cpu,cpuacct"));
  put("cpuset/docker/abc/cpu.cfs_quota_us", "1000\n");  // of another hierarchy
  put("cpuset/docker/abc/cpu.cfs_period_us", "100000\n");
  put("cpu/docker/abc/cpu.cfs_quota_us", "-1\n");
  put("cpu/docker/abc/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), std::nullopt);
  put("cpu/docker/abc/cpu.cfs_quota_us", "250000\n");
  EXPECT_EQ(quota(), 2.5);
}

TEST_F(CgroupQuota, ContainersSeeTheirGroupWhereItIsMounted) {
  put("cpu/cpu.cfs_quota_us", "300000\n");
  put("cpu/cpu.cfs_period_us", "100000\n");
  put("cpu/inner/cpu.cfs_quota_us", "200000\n");
  put("cpu/inner/cpu.cfs_period_us", "100000\n");
  put("mounts", mounted("/docker/abc", path("cpu"), "cgroup cgroup rw,cpu"));
  for (const auto& [group, expected] : {std::pair{"/docker/abc", 3.0},
                                        {"/docker/abc/inner", 2.0},
                                        {"/docker/abcdef", 3.0},  // not below it
                                        {"/", 3.0},
                                        {"/docker/abc/../../inner", 3.0}}) {
    put("groups", std::string("4:cpu:") + group + "\n");
    EXPECT_EQ(quota(), expected) << group;
  }
}

TEST_F(CgroupQuota, APathWithBlanks) {
  put("groups", "0::/a group: mine\n");
  put("mounts", mounted("/", path("the\\040mount\\134x"), "cgroup2 cgroup2 rw"));
  put("the mount\\x/a group: mine/cpu.max", "400000 100000\n");
  EXPECT_EQ(quota(), 4.0);
}

TEST_F(CgroupQuota, NothingIsNoLimit) {
  EXPECT_EQ(quota(), std::nullopt);  // no files
  put("groups", "0::/\n");
  EXPECT_EQ(quota(), std::nullopt);
  fs::create_directories(path("mounts"));  // a folder
  EXPECT_EQ(quota(), std::nullopt);
  fs::remove(path("mounts"));
  EXPECT_EQ(quota_where("300000 100000"), 3.0);
}

TEST_F(CgroupQuota, WhatCannotBeUnderstoodIsNoLimit) {
  for (const std::string text :
       {"", "\n", "max", "max 100000", "max max", "100000", "-100000 100000", "100000 -100000", "0 100000", "100000 0",
        "1e5 100000", "0x100 16", "100000 100000 100000", " 100000 100000", "100000\n100000",
        "99999999999999999999999 100000", "\xff\xfe\x01 2", "nan 1", "+5 1"})
    EXPECT_EQ(quota_where(text), std::nullopt) << text;
  EXPECT_EQ(quota_where(std::string("300000 100000\0", 14)), std::nullopt);
  EXPECT_EQ(quota_where("9223372036854775807 1"), 9223372036854775807.0);
  EXPECT_EQ(quota_where("300000 100000\nmore\n"), 3.0);
}

TEST_F(CgroupQuota, TablesOfRubbish) {
  EXPECT_EQ(quota_where("300000 100000"), 3.0);
  const std::string good = mounted("/", path("unified"), "cgroup2 cgroup2 rw");
  put("mounts",
      " - \n - - - \n1 2 3 4 5 - cgroup2\nx - cgroup2 a b\n\\\\\\09\\4 \xff\xfe - cgroup rw,cpu cpu\n" + good);
  EXPECT_EQ(quota(), 3.0);
  put("mounts", good.substr(0, good.size() - 20));  // cut off
  EXPECT_EQ(quota(), std::nullopt);
  put("mounts", good);
  for (const std::string rubbish : {":", "::", "0", "0:", "0::", ":::::", "1:,,,:/", "\xff:\xff:\xff"}) {
    put("groups", rubbish + "\n");
    EXPECT_TRUE(quota() == std::nullopt || rubbish == "0::") << rubbish;
    put("groups", rubbish + "\n0::/\n");
    EXPECT_EQ(quota(), 3.0) << rubbish;
  }
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "/a";
  put("groups", "0::" + deep + "\n");
  EXPECT_EQ(quota(), 3.0);  // of the mount
  put("groups", "0::/" + std::string(1 << 20, 'x'));
  EXPECT_EQ(quota(), 3.0);
  put("groups", "0::/a/../..\n");
  EXPECT_EQ(quota(), 3.0);
}

TEST(Processors, TheSmallerOfAffinityAndQuotaRoundedUp) {
  EXPECT_EQ(processors_within(8, std::nullopt), 8);
  EXPECT_EQ(processors_within(8, 2.0), 2);
  EXPECT_EQ(processors_within(8, 2.001), 3);
  EXPECT_EQ(processors_within(8, 0.01), 1);
  EXPECT_EQ(processors_within(8, 7.5), 8);
  EXPECT_EQ(processors_within(8, 9e18), 8);
  EXPECT_EQ(processors_within(0, 4.0), 1);
  EXPECT_EQ(processors_within(1, 0.5), 1);
}

cpu_set_t own_mask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  EXPECT_EQ(::sched_getaffinity(0, sizeof mask, &mask), 0);
  return mask;
}

TEST(Processors, FollowTheThreadsAffinity) {
  std::thread([] {
    if (omp_get_num_places() > 0) return;  // then OpenMP's places count
    const cpu_set_t mask = own_mask();
    EXPECT_LE(usable_processors(), CPU_COUNT(&mask));
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i)
      if (CPU_ISSET(i, &mask)) CPU_SET(i, &one);
    ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(usable_processors(), 1);
    EXPECT_EQ(available_threads(), 1);
  }).join();
}

// With OMP_PROC_BIND the first thread, and with it all that it starts, is bound to one processor.
TEST(BackgroundThread, MayUseAllProcessors) {
  const int processors = omp_get_num_procs();
  const cpu_set_t mine = own_mask();
  if (omp_get_num_places() > 0) {
    EXPECT_EQ(CPU_COUNT(&mine), 1);
  }
  std::thread([&] {
    begin_background_thread();
    const cpu_set_t all = own_mask();
    EXPECT_EQ(CPU_COUNT(&all), processors);
  }).join();
  const cpu_set_t after = own_mask();  // nobody else changed
  EXPECT_TRUE(CPU_EQUAL(&mine, &after));
}

}  // namespace
}  // namespace raedit
