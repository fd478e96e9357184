// What `tessera keygen` says when it cannot write the key file: the place, and what mends it.

#include "cli/keygen.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class KeygenTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tessera-keygen-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  // What is said about this file, "" when the key was added.
  static std::string Said(const std::string& path) {
    const auto added = AddToKeyFile(path, "acme", R"({"sha256": "00", "tenant": "acme"})");
    return std::string(added.status().message());
  }

  std::string directory_;
};

TEST_F(KeygenTest, WhyTheFileCannotBeMade) {
  const std::string missing = directory_ + "/not/there";
  EXPECT_THAT(Said(missing + "/keys.json"),
              AllOf(HasSubstr("the directory " + missing + " of the key file does not exist"),
                    HasSubstr("mkdir -p " + missing), Not(HasSubstr("keygen is at work"))));
  EXPECT_FALSE(std::filesystem::exists(missing));

  const std::string path = directory_ + "/keys.json";
  std::ofstream(path + ".new") << "half";
  EXPECT_THAT(Said(path), AllOf(HasSubstr(path + ".new exists"), HasSubstr("another keygen"),
                                HasSubstr("remove it")));
  std::filesystem::remove(path + ".new");

  EXPECT_EQ(Said(path), "");
  EXPECT_THAT(Said(path + "/keys.json"),
              AllOf(HasSubstr(path + "/keys.json.new"), HasSubstr("Not a directory")));
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
}

TEST_F(KeygenTest, ADirectoryThatMayNotBeWrittenIsNamed) {
  if (geteuid() == 0) GTEST_SKIP() << "nothing is forbidden to root";
  ASSERT_EQ(chmod(directory_.c_str(), 0500), 0);
  EXPECT_THAT(Said(directory_ + "/keys.json"),
              AllOf(HasSubstr("the directory " + directory_ + " must be writable"),
                    HasSubstr("Permission denied")));
  chmod(directory_.c_str(), 0700);
}

}  // namespace
}  // namespace tessera
