#include "quire/base/available_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace quire {
namespace {

// A made-up root with files of the system.
class AvailableMemory : public testing::Test {
 protected:
  AvailableMemory()
      : root_(std::filesystem::temp_directory_path() /
              (std::string("memory_") +
               testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(root_);
  }
  ~AvailableMemory() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root_.string() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  std::int64_t available() const { return available_memory(root_.string()); }

 private:
  const std::filesystem::path root_;
};

TEST_F(AvailableMemory, IsWhatTheSystemSays) {
  EXPECT_EQ(available(), 0);
  write("/proc/meminfo", "MemTotal:       16000 kB\nMemFree: 1 kB\nMemAvailable:    8000 kB\n");
  EXPECT_EQ(available(), 8000 * 1024);
  write("/proc/meminfo", "MemTotal: nonsense\nMemAvailable: much\n");
  EXPECT_EQ(available(), 0);
}

TEST_F(AvailableMemory, IsLimitedByGroupsOfVersion2) {
  write("/proc/meminfo", "MemAvailable:    8000 kB\n");
  write("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n");
  write("/proc/self/cgroup", "0::/user/job\n");
  const std::string job = "/sys/fs/cgroup/user/job", user = "/sys/fs/cgroup/user";
  write(job + "/memory.max", "max\n");
  write(job + "/memory.current", "5000\n");
  EXPECT_EQ(available(), 8000 * 1024);
  write(job + "/memory.max", "9000\n");
  EXPECT_EQ(available(), 4000);
  write(job + "/memory.stat", "anon 1000\ninactive_file 3500\nactive_file 500\n");
  EXPECT_EQ(available(), 7500);
  write(user + "/memory.max", "4000\n");
  write(user + "/memory.current", "3000\n");
  EXPECT_EQ(available(), 1000);
  write(user + "/memory.current", "6000\n");
  EXPECT_EQ(available(), 0);
}

TEST_F(AvailableMemory, IsLimitedByGroupsOfVersion1) {
  write("/proc/meminfo", "MemAvailable:    8000 kB\n");
  write("/proc/self/mountinfo",
        "34 31 0:31 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory\n");
  write("/proc/self/cgroup", "5:memory:/job\n");
  const std::string job = "/sys/fs/cgroup/memory/job";
  write(job + "/memory.limit_in_bytes", "9223372036854771712\n");
  write(job + "/memory.usage_in_bytes", "5000\n");
  EXPECT_EQ(available(), 8000 * 1024);
  write(job + "/memory.limit_in_bytes", "6000\n");
  write(job + "/memory.stat", "inactive_file 1\ntotal_inactive_file 2000\n");
  EXPECT_EQ(available(), 3000);
}

TEST(AvailableMemoryHere, IsSomething) { EXPECT_GT(available_memory(), 1 << 20); }

}  // namespace
}  // namespace quire
