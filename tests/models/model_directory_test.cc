// Names to directories: paths, the Hugging Face cache and its damages. Nothing is fetched.

#include "models/model_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "tests/models/model_files.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

const char kOld[] = "0123456789abcdef0123456789abcdef01234567";
const char kNew[] = "fedcba9876543210fedcba9876543210fedcba98";

// A cache with org/model: main is kNew, the branch test/a is kOld; files are links into blobs.
class HubCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const fs::path model = Model();
    for (const char* commit : {kOld, kNew}) {
      fs::create_directories(model / "snapshots" / commit);
      fs::create_directories(model / "blobs");
      cache_.Write("models--org--model/blobs/b" + std::string(commit), "{}");
      fs::create_symlink("../../blobs/b" + std::string(commit),
                         model / "snapshots" / commit / "config.json");
    }
    fs::create_directories(model / "refs" / "test");
    cache_.Write("models--org--model/refs/main", kNew);
    cache_.Write("models--org--model/refs/test/a", std::string(kOld) + "\n");
  }
  fs::path Model() const { return fs::path(cache_.path()) / "models--org--model"; }
  absl::StatusOr<ModelDirectory> Find(const std::string& flag) const {
    return FindModel(flag, cache_.path());
  }
  std::string Message(const std::string& flag) const {
    return std::string(Find(flag).status().message());
  }

  const TempDir cache_;
};

TEST_F(HubCacheTest, NamesAreSnapshots) {
  struct Case {
    std::string flag;
    std::string name;
    std::string commit;
  };
  for (const Case& c : {Case{"org/model", "org/model", kNew}, Case{"mine=org/model", "mine", kNew},
                        Case{"org/model@test/a", "org/model", kOld},
                        Case{std::string("old=org/model@") + kOld, "old", kOld}}) {
    const auto found = Find(c.flag);
    ASSERT_TRUE(found.ok()) << c.flag << found.status();
    EXPECT_EQ(found->name, c.name);
    EXPECT_EQ(found->hub_name, "org/model");
    EXPECT_EQ(found->directory, Model() / "snapshots" / c.commit) << c.flag;
    EXPECT_TRUE(fs::exists(found->directory / "config.json"));
  }
}

TEST_F(HubCacheTest, DirectoriesGoFirst) {
  const auto found = Find("x=" + cache_.path() + "/");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->name, "x");
  EXPECT_EQ(found->directory, cache_.path());
  EXPECT_EQ(found->hub_name, "");
  EXPECT_EQ(Find(Model().string())->name, "models--org--model");
  // The same name as one in the cache, here.
  const fs::path here = fs::current_path();
  fs::current_path(cache_.path());
  fs::create_directories("org/model");
  EXPECT_EQ(Find("org/model")->directory, fs::path(cache_.path()) / "org" / "model");
  EXPECT_EQ(Find("org/model")->name, "model");
  fs::current_path(here);
}

TEST_F(HubCacheTest, WhatIsMissingIsNamedWithTheCommandThatFetchesIt) {
  EXPECT_EQ(Find("org/none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message("org/none"),
              AllOf(HasSubstr(cache_.path()), HasSubstr("models--org--none"),
                    HasSubstr("`hf download org/none`"), HasSubstr("HF_HUB_CACHE")));
  EXPECT_THAT(Message("org/model@v2"),
              AllOf(HasSubstr("no revision 'v2'"), HasSubstr(std::string("org/model@") + kOld),
                    HasSubstr("`hf download org/model --revision v2`")));
  fs::remove_all(Model() / "snapshots" / kNew);
  EXPECT_THAT(Message("org/model"), AllOf(HasSubstr(kNew), HasSubstr("is not there"),
                                          HasSubstr(std::string("org/model@") + kOld)));
  EXPECT_EQ(Find("./none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message("./none"), HasSubstr("there is no directory"));
  EXPECT_THAT(Message("none"), HasSubstr("there is no directory"));
}

TEST_F(HubCacheTest, DamagedAndHostileNamesAreRefused) {
  cache_.Write("models--org--model/refs/main", "../../../../etc");
  EXPECT_THAT(Message("org/model"), AllOf(HasSubstr("refs/main"), HasSubstr("commit")));
  cache_.Write("models--org--model/refs/main", "");
  EXPECT_THAT(Message("org/model"), HasSubstr("refs/main"));
  cache_.Write("models--org--model/refs/main", std::string(100'000, 'a'));
  EXPECT_THAT(Message("org/model"), HasSubstr("refs/main"));
  for (const char* revision : {"../main", "a/../../b", "/etc", "", ".", "a//..", "-x", "a b"}) {
    const absl::Status status = Find(std::string("org/model@") + revision).status();
    EXPECT_FALSE(status.ok()) << revision;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("must hold a commit"))) << revision;
  }
  for (const char* flag :
       {"", "x=", "=org/model", "../x/y", "org/../model", ".org/model", "a/b/c"}) {
    EXPECT_FALSE(Find(flag).ok()) << flag;
  }
}

TEST_F(HubCacheTest, AWorkerFindsASnapshotByItsCommit) {
  const fs::path snapshot = Model() / "snapshots" / kOld;
  EXPECT_THAT(ModelCandidates(cache_.path(), kOld), ElementsAre(snapshot));
  EXPECT_THAT(ModelCandidates(Model(), kOld), ElementsAre(snapshot));
  EXPECT_THAT(ModelCandidates(Model() / "snapshots", kOld), ElementsAre(snapshot));
  EXPECT_THAT(ModelCandidates(snapshot, kOld), ElementsAre(snapshot));
  EXPECT_THAT(ModelCandidates(snapshot, "other"), ElementsAre(snapshot)) << "the digest decides";
  EXPECT_THAT(ModelCandidates(cache_.path(), "snapshots"), IsEmpty());
}

TEST(HubCache, IsFoundAsTheHubsOwnToolsFindIt) {
  std::map<std::string, std::string> variables = {{"HOME", "/home/x"}};
  const auto cache = [&] {
    return HubCache([&](const char* name) -> const char* {
      const auto it = variables.find(name);
      return it == variables.end() ? nullptr : it->second.c_str();
    });
  };
  EXPECT_EQ(cache(), "/home/x/.cache/huggingface/hub");
  variables["XDG_CACHE_HOME"] = "/xdg";
  EXPECT_EQ(cache(), "/xdg/huggingface/hub");
  variables["HF_HOME"] = "/hf/";
  EXPECT_EQ(cache(), "/hf/hub");
  variables["HUGGINGFACE_HUB_CACHE"] = "/older";
  EXPECT_EQ(cache(), "/older");
  variables["HF_HUB_CACHE"] = "/cache";
  EXPECT_EQ(cache(), "/cache");
  variables["HF_HUB_CACHE"] = "";
  EXPECT_EQ(cache(), "/older");
}

}  // namespace
}  // namespace tessera
