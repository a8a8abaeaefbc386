// Files as a user without rights meets them.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace quire::testing {

constexpr unsigned kNobody = 65534;

inline bool is_superuser() { return geteuid() == 0; }

// While it lives this process has the rights of user and group kNobody. Only for the
// superuser.
class AsNobody {
 public:
  AsNobody() {
    EXPECT_EQ(setegid(kNobody), 0);
    EXPECT_EQ(seteuid(kNobody), 0);
  }
  ~AsNobody() {
    EXPECT_EQ(seteuid(0), 0);
    EXPECT_EQ(setegid(0), 0);
  }
  AsNobody(const AsNobody&) = delete;
  AsNobody& operator=(const AsNobody&) = delete;
};

}  // namespace quire::testing
