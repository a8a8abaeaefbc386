// Which files may be replaced, where a path leads to, and what of the old file stays.
#include "quire/io/saved_place.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "io/as_nobody.h"
#include "io/file_support.h"
#include "kv/table/token_rows.h"
#include "quire/io/atomic_file.h"

namespace quire::testing {
namespace {

void save(const std::string& path, std::string_view text = "new") {
  AtomicFile file("save", path);
  file.write_at(0, std::as_bytes(std::span(text)));
  file.commit();
}

int code_of_save(const std::string& path) {
  try {
    save(path);
  } catch (const FileError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("save: path: ")) << error.what();
    EXPECT_EQ(error.path(), path);
    return error.code();
  }
  return 0;
}

struct stat status_of(const std::string& path) {
  struct stat status{};
  EXPECT_EQ(lstat(path.c_str(), &status), 0) << path;
  return status;
}

mode_t mode_of(const std::string& path) { return status_of(path).st_mode & 07777; }

void write(const std::string& path, std::string_view text, mode_t mode) {
  std::ofstream(path) << text;
  ASSERT_EQ(chmod(path.c_str(), mode), 0);
}

TEST(SavedPlace, OnlyRegularFilesAreReplaced) {
  const TemporaryDirectory directory;
  ASSERT_EQ(mkfifo((directory / "pipe").c_str(), 0666), 0);
  const int socket_file = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT((directory / "socket").size(), sizeof address.sun_path);
  std::strcpy(address.sun_path, (directory / "socket").c_str());
  ASSERT_EQ(bind(socket_file, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  std::vector<std::pair<const char*, const char*>> kinds = {{"pipe", "a pipe"},
                                                            {"socket", "a socket"}};
  if (mknod((directory / "device").c_str(), S_IFCHR | 0666, makedev(1, 3)) == 0) {
    kinds.emplace_back("device", "a device");
  }
  for (const auto& [name, kind] : kinds) {
    const mode_t before = status_of(directory / name).st_mode;
    std::filesystem::create_symlink(name, directory / "link");
    for (const std::string& path : {directory / name, directory / "link"}) {
      EXPECT_EQ(message_of<ValueError>([&] { save(path); }),
                concat("save: path: got ", path, ": ", kind, ", expected a regular file or none"));
    }
    EXPECT_EQ(status_of(directory / name).st_mode, before);
    std::filesystem::remove(directory / "link");
  }
  EXPECT_EQ(directory.names().size(), kinds.size());
  close(socket_file);
}

// There is no name by which it could be replaced.
TEST(SavedPlace, ThePipesOfThisProcessAreRefused) {
  int ends[2];
  ASSERT_EQ(pipe(&ends[0]), 0);
  const std::string path = concat("/proc/self/fd/", ends[1]);
  EXPECT_EQ(message_of<ValueError>([&] { save(path); }),
            concat("save: path: got ", path, ": a pipe, expected a regular file or none"));
  for (const int end : ends) close(end);
}

// What appears there while the file is written is not replaced either.
TEST(SavedPlace, ItIsLookedAtAgainBeforeItIsReplaced) {
  const TemporaryDirectory directory;
  {
    AtomicFile file("save", directory / "x");
    ASSERT_EQ(mkfifo((directory / "x").c_str(), 0666), 0);
    EXPECT_NE(message_of<ValueError>([&] { file.commit(); }), "");
  }
  EXPECT_TRUE(S_ISFIFO(status_of(directory / "x").st_mode));
  write(directory / "y", "old", 0600);
  {
    AtomicFile file("save", directory / "y");
    ASSERT_EQ(chmod((directory / "y").c_str(), 0444), 0);
    EXPECT_THROW(file.commit(), FileError);
  }
  EXPECT_EQ(contents(directory / "y"), "old");
  EXPECT_EQ(directory.names(), (std::vector<std::string>{"x", "y"}));
}

TEST(SavedPlace, LinksAreFollowedAndStay) {
  const TemporaryDirectory directory;
  std::filesystem::create_directories(directory / "a/b");
  write(directory / "a/target", "old", 0644);
  std::filesystem::create_symlink("../target", directory / "a/b/link");
  std::filesystem::create_symlink(directory / "a/b/link", directory / "absolute");
  std::filesystem::create_directory_symlink("a/b", directory / "folder");
  for (const char* name : {"absolute", "folder/link", "a/b/link"}) {
    save(directory / name, name);
    EXPECT_EQ(contents(directory / "a/target"), name);
    EXPECT_TRUE(S_ISLNK(status_of(directory / name).st_mode));
  }
  EXPECT_EQ(directory.names(), (std::vector<std::string>{"a", "absolute", "folder"}));
}

TEST(SavedPlace, ALinkToNothingSaysWhereTheFileIsMade) {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "to");
  std::filesystem::create_symlink("to/new", directory / "link");
  save(directory / "link");
  EXPECT_EQ(contents(directory / "to/new"), "new");
  EXPECT_TRUE(S_ISLNK(status_of(directory / "link").st_mode));
  std::filesystem::create_symlink("none/new", directory / "lost");
  EXPECT_EQ(code_of_save(directory / "lost"), ENOENT);
  std::filesystem::create_symlink("round", directory / "circle");
  std::filesystem::create_symlink("circle", directory / "round");
  EXPECT_EQ(code_of_save(directory / "round"), ELOOP);
  EXPECT_EQ(directory.names(), (std::vector<std::string>{"circle", "link", "lost", "round", "to"}));
}

TEST(SavedPlace, TheOldModeStaysAndANewFileHasTheMasks) {
  const TemporaryDirectory directory;
  const mode_t mask = umask(0027);
  save(directory / "new");
  EXPECT_EQ(mode_of(directory / "new"), 0640u);
  for (const mode_t mode : {0600, 0644, 0666, 0664, 0755, 0200}) {
    write(directory / "x", "old", mode);
    save(directory / "x");
    EXPECT_EQ(mode_of(directory / "x"), mode);
  }
  // and one that has gone meanwhile
  write(directory / "x", "old", 0604);
  AtomicFile file("save", directory / "x");
  EXPECT_EQ(mode_of(directory / ".x.saving"), 0600u);  // nobody reads it who may not read the old
  std::filesystem::remove(directory / "x");
  file.commit();
  EXPECT_EQ(mode_of(directory / "x"), 0604u);
  umask(mask);
}

TEST(SavedPlace, TheOwnerStaysWhereTheSystemAllowsIt) {
  if (!is_superuser()) GTEST_SKIP() << "only the superuser gives files away";
  const TemporaryDirectory directory;
  write(directory / "x", "old", 0664);
  ASSERT_EQ(chown((directory / "x").c_str(), kNobody, 5678), 0);
  save(directory / "x");
  EXPECT_EQ(status_of(directory / "x").st_uid, kNobody);
  EXPECT_EQ(status_of(directory / "x").st_gid, 5678u);
  EXPECT_EQ(mode_of(directory / "x"), 0664u);
  // Who is not in the group cannot give the file to it, and gives it to no other.
  ASSERT_EQ(chmod((directory / "").c_str(), 0777), 0);
  const AsNobody nobody;
  save(directory / "x");
  EXPECT_EQ(status_of(directory / "x").st_gid, kNobody);
  EXPECT_EQ(mode_of(directory / "x"), 0644u);
}

TEST(SavedPlace, ReadOnlyFilesAreRefused) {
  const TemporaryDirectory directory;
  const auto refuses = [&](const char* name) {
    EXPECT_EQ(message_of<FileError>([&] { save(directory / name); }),
              "save: path: replace a file that is read-only: Permission denied");
    EXPECT_EQ(code_of_save(directory / name), EACCES);
    EXPECT_EQ(contents(directory / name), "old");
  };
  write(directory / "x", "old", 0444);
  std::filesystem::create_symlink("x", directory / "link");
  refuses("x");
  refuses("link");
  if (is_superuser()) {
    write(directory / "its", "old", 0644);  // of the superuser, in a directory for all
    ASSERT_EQ(chmod((directory / "").c_str(), 0777), 0);
    const AsNobody nobody;
    refuses("its");
  }
  EXPECT_EQ(contents(directory / "x"), "old");
}

TEST(SavedPlace, ADirectoryThatCannotBeOpenedIsToldAboutBeforehand) {
  if (!is_superuser()) GTEST_SKIP() << "to be another user";
  const TemporaryDirectory directory;
  write(directory / "x", "old", 0666);
  ASSERT_EQ(chmod((directory / "").c_str(), 0333), 0);  // its names may be changed, but not read
  {
    const AsNobody nobody;
    EXPECT_EQ(message_of<FileError>([&] { save(directory / "x"); }),
              "save: path: open the directory: Permission denied");
  }
  EXPECT_EQ(contents(directory / "x"), "old");
}

TEST(SavedPlace, NamesAsLongAsTheSystemTakes) {
  const TemporaryDirectory directory;
  std::string letters;
  for (int i = 0; i < 127; ++i) letters += "\xc3\xa4";
  for (const std::string& name : {std::string(255, 'x'), std::string(250, 'y'), letters + "z"}) {
    for (int i = 0; i < 2; ++i) save(directory / name, "new");
    EXPECT_EQ(contents(directory / name), "new");
  }
  EXPECT_EQ(directory.names().size(), 3u);
  EXPECT_EQ(code_of_save(directory / std::string(256, 'x')), ENAMETOOLONG);
}

TEST(SavedPlace, PathsOfAnyForm) {
  const TemporaryDirectory directory;
  EXPECT_EQ(message_of<ValueError>([] { save(""); }),
            "save: path: got an empty one, expected a path");
  EXPECT_EQ(message_of<ValueError>([] { save(std::string("a\0b", 3)); }),
            "save: path: got one with NUL, expected a path");
  EXPECT_EQ(code_of_save(directory / "x/"), EISDIR);
  EXPECT_EQ(code_of_save(directory / "no/."), ENOENT);
  EXPECT_EQ(code_of_save("/"), EISDIR);
  write(directory / "file", "", 0644);
  EXPECT_EQ(code_of_save(directory / "file/"), ENOTDIR);
  const auto here = std::filesystem::current_path();
  std::filesystem::current_path(directory / "");
  for (const char* path : {"x", "./x", ".//x"}) {
    save(path, path);
    EXPECT_EQ(contents(directory / "x"), path);
  }
  std::filesystem::current_path(here);
  EXPECT_EQ(directory.names(), (std::vector<std::string>{"file", "x"}));
}

// Another directory has taken its path: the file is where it was to be.
TEST(SavedPlace, TheDirectoryIsTheOneThatWasOpened) {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "a");
  AtomicFile file("save", directory / "a/x");
  std::filesystem::rename(directory / "a", directory / "b");
  std::filesystem::create_directory(directory / "a");
  file.commit();
  EXPECT_TRUE(std::filesystem::exists(directory / "b/x"));
  EXPECT_TRUE(std::filesystem::is_empty(directory / "a"));
}

}  // namespace
}  // namespace quire::testing
