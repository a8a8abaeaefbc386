#include "quire/base/process.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

namespace quire {
namespace {

// Of a child that leaves with what `check` says, whether it was true.
template <class Check>
bool holds_in_child(Check check) {
  const pid_t child = fork();
  if (child == 0) _exit(check() ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(Process, AChildIsNotAtHomeInWhatItsParentMade) {
  const HomeProcess home;
  EXPECT_TRUE(home.is_here());
  EXPECT_TRUE(holds_in_child([&] {
    const HomeProcess childs;
    return !home.is_here() && childs.is_here() &&
           holds_in_child([&] { return !home.is_here() && !childs.is_here(); });
  }));
  EXPECT_TRUE(home.is_here());
}

TEST(Process, DeletesAtHomeAlone) {
  struct Counted {
    int& deleted;
    ~Counted() { ++deleted; }
  };
  int deleted = 0;
  std::unique_ptr<Counted, DeleteAtHome> object(new Counted{deleted});
  EXPECT_TRUE(holds_in_child([&] {
    object.reset();
    return deleted == 0;
  }));
  object.reset();
  EXPECT_EQ(deleted, 1);
}

}  // namespace
}  // namespace quire
