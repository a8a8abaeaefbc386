#include "quire/base/cpu_quota.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

namespace quire {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

constexpr const char* kV2Mount = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
constexpr const char* kV1Mounts =
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "34 31 0:31 / /sys/fs/cgroup/cpuset rw shared:10 - cgroup cgroup rw,cpuset\n";

// A made-up root with the files of control groups.
class CpuQuota : public testing::Test {
 protected:
  CpuQuota()
      : root_(std::filesystem::temp_directory_path() /
              testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(root_);
  }
  ~CpuQuota() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root_.string() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void write_process(const std::string& mounts, const std::string& groups) const {
    write("/proc/self/mountinfo", mounts);
    write("/proc/self/cgroup", groups);
  }
  double quota() const { return cpu_quota(root_.string()); }

 private:
  const std::filesystem::path root_;
};

TEST_F(CpuQuota, OfNothingThereIsNoLimit) {
  EXPECT_EQ(quota(), kNoLimit);
  write_process("", "");
  EXPECT_EQ(quota(), kNoLimit);
  write_process("nonsense\n1 2 - \n\n- - -\n", "0\n:\n0:\n0::nowhere\n:::\n");
  EXPECT_EQ(quota(), kNoLimit);
}

TEST_F(CpuQuota, OfVersion2) {
  write_process(kV2Mount, "0::/user/job\n");
  write("/sys/fs/cgroup/user/job/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota(), 1.5);
  write("/sys/fs/cgroup/user/job/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), kNoLimit);
  write("/sys/fs/cgroup/user/job/cpu.max", "0 100000\n");
  EXPECT_EQ(quota(), kNoLimit);
  write("/sys/fs/cgroup/user/job/cpu.max", "");
  EXPECT_EQ(quota(), kNoLimit);
}

TEST_F(CpuQuota, TheLeastOfAllGroupsAboveCounts) {
  write_process(kV2Mount, "0::/a/b/c\n");
  write("/sys/fs/cgroup/a/b/c/cpu.max", "400000 100000\n");
  write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  write("/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
  EXPECT_EQ(quota(), 2.5);
  write("/sys/fs/cgroup/cpu.max", "50000 100000\n");  // as in a container the root has one
  EXPECT_EQ(quota(), 0.5);
  write("/sys/fs/cgroup/a/other/cpu.max", "1000 100000\n");  // not above it
  EXPECT_EQ(quota(), 0.5);
}

TEST_F(CpuQuota, OfVersion1) {
  write_process(kV1Mounts, "5:cpuset:/set\n4:cpu,cpuacct:/docker/abc\n0::/\n");
  const std::string group = "/sys/fs/cgroup/cpu,cpuacct/docker/abc";
  write(group + "/cpu.cfs_quota_us", "-1\n");
  write(group + "/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), kNoLimit);
  write(group + "/cpu.cfs_quota_us", "300000\n");
  EXPECT_EQ(quota(), 3);
  write("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", "100000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "50000\n");
  EXPECT_EQ(quota(), 2);
}

// A container sees its own group mounted, and may see its path from outside.
TEST_F(CpuQuota, OfAGroupThatIsMountedItself) {
  write("/sys/fs/cgroup/cpu.max", "200000 100000\n");
  for (const char* group : {"0::/docker/abc\n", "0::/\n", "0::/../sibling\n", "0::/other\n"}) {
    write_process("30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", group);
    EXPECT_EQ(quota(), 2) << group;
  }
  write_process("30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
                "0::/docker/abc/inner\n");
  write("/sys/fs/cgroup/inner/cpu.max", "100000 100000\n");
  EXPECT_EQ(quota(), 1);
  write_process("30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
                "0::/docker/abcinner\n");
  EXPECT_EQ(quota(), 2);
}

TEST_F(CpuQuota, OfBothVersionsAtOnce) {
  const std::string unified = "35 23 0:40 / /sys/fs/unified rw - cgroup2 cgroup2 rw\n";
  write_process(kV1Mounts + unified, "4:cpu,cpuacct:/a\n0::/b\n");
  write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "300000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 3);
  write("/sys/fs/unified/b/cpu.max", "200000 100000\n");
  EXPECT_EQ(quota(), 2);
}

}  // namespace
}  // namespace quire
