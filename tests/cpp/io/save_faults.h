// What a save leaves and a load leaves, whichever call of the system fails.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "io/file_support.h"
#include "quire/base/check.h"
#include "support/file_faults.h"

namespace quire::testing {

// The leftover of a save to "left".
constexpr std::string_view kLeftover = ".left.saving";

// Everything below a directory but kLeftover: its kind, mode and owner, and what it holds.
inline std::map<std::string, std::string> everything_in(const TemporaryDirectory& directory) {
  std::map<std::string, std::string> all;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory / "")) {
    struct stat status{};
    EXPECT_EQ(lstat(entry.path().c_str(), &status), 0);
    std::string text = concat(status.st_mode, " ", status.st_uid, ":", status.st_gid, " ");
    if (S_ISREG(status.st_mode)) text += contents(entry.path());
    if (S_ISLNK(status.st_mode)) text += std::filesystem::read_symlink(entry.path()).string();
    if (entry.path().filename() != kLeftover) {
      all[std::filesystem::relative(entry.path(), directory / "")] = text;
    }
  }
  return all;
}

inline bool is_harmless(const std::string& call, int code) {
  if (call == "fsync of a directory" && (code == ENOSYS || code == EOPNOTSUPP)) return true;
  return code == EINTR || call == "flock" || call == "close" || call == "fchown";
}

constexpr int kCodes[] = {EIO, ENOSPC, EACCES, EPERM, ENOLCK, ENOSYS, EOPNOTSUPP, EINTR};

using InDirectory = std::function<void(const TemporaryDirectory&)>;

// Has each call of save(), in a directory as prepare() makes it, fail with each code. It either
// throws and all is as before, or not and all is as where nothing fails; or the new file stands
// already, and the error says so. A leftover that prepare() makes may be removed or not: then
// it is not known what fails in silence.
inline void expect_all_or_nothing(const InDirectory& prepare, const InDirectory& save,
                                  bool has_leftover = false) {
  std::map<std::string, std::string> complete;
  std::vector<std::string> calls;
  std::size_t rename = 0;
  {
    const TemporaryDirectory directory;
    calls_of([&] { prepare(directory); });  // so that no disk is waited for
    calls = calls_of([&] { save(directory); });
    rename = std::find(calls.begin(), calls.end(), "renameat") - calls.begin();
    ASSERT_LT(rename, calls.size());
    complete = everything_in(directory);
  }
  const auto open_files = count_open_files();
  for (std::size_t failing = 0; failing < calls.size(); ++failing) {
    for (const int code : kCodes) {
      SCOPED_TRACE(concat("call ", failing, ", ", calls[failing], ", fails with ", code));
      const TemporaryDirectory directory;
      calls_of([&] { prepare(directory); });
      const auto before = everything_in(directory);
      std::string message;
      {
        const FileFaults faults(
            [&](std::string_view, std::size_t index) { return index == failing ? code : 0; });
        try {
          save(directory);
        } catch (const FileError& error) {
          message = error.what();
          EXPECT_EQ(error.code(), code) << message;
        }
      }
      const bool is_late = message.find("the new file stands") != std::string::npos;
      EXPECT_EQ(everything_in(directory), message.empty() || is_late ? complete : before)
          << message;
      const bool harmless = is_harmless(calls[failing], code);
      EXPECT_EQ(is_late, failing > rename && !harmless) << message;
      if (harmless || !has_leftover) {
        EXPECT_EQ(message.empty(), harmless) << message;
      }
      EXPECT_EQ(count_open_files(), open_files);
    }
  }
}

// Has each call of load() fail with each code: it throws, and leaves nothing open. The caller looks
// at what else it should have left alone after each.
inline void expect_faults_reported(const std::function<void()>& load,
                                   const std::function<void()>& expect_unchanged) {
  const std::vector<std::string> calls = calls_of(load);
  ASSERT_GE(calls.size(), 4u);
  const auto open_files = count_open_files();
  for (std::size_t failing = 0; failing < calls.size(); ++failing) {
    for (const int code : kCodes) {
      SCOPED_TRACE(concat("call ", failing, ", ", calls[failing], ", fails with ", code));
      int thrown = 0;
      {
        const FileFaults faults(
            [&](std::string_view, std::size_t index) { return index == failing ? code : 0; });
        try {
          load();
        } catch (const FileError& error) {
          thrown = error.code();
        }
      }
      const bool may_pass = is_harmless(calls[failing], code) && calls[failing] != "mmap";
      EXPECT_EQ(thrown, may_pass ? 0 : code);
      if (thrown != 0) expect_unchanged();
      EXPECT_EQ(count_open_files(), open_files);
    }
  }
}

}  // namespace quire::testing
