// What a key file may say, where a wrong one is wrong, and when it is read again.

#include "coordinator/tenants/key_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cli/keygen.h"
#include "coordinator/tenants/key_file_watcher.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kDigest[] =
    "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";  // "hello"

constexpr char kGood[] = R"({
  "tenants": [
    {"name": "acme", "weight": 2.5, "kv_share": 0.25, "priority": 3, "priority_max": 9,
     "limits": {"requests_in_flight": 4, "tokens_per_minute": 60000},
     "models": ["small", "large"],
     "share_system_prompt": true,
     "cache_domain": "acme-prod"
    },
    {"name": "b"}
  ],
  "keys": [
    {"sha256": "DIGEST",
     "tenant": "b",
     "expires": "2030-01-31T12:00:00Z",
     "comment": "of the build machines"}
  ]
}
)";

std::string Good() { return absl::StrReplaceAll(kGood, {{"DIGEST", kDigest}}); }

TEST(KeyFileTest, EveryFieldIsRead) {
  const absl::StatusOr<KeyFile> file = ParseKeyFile(Good());
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tenants.size(), 2u);
  const Tenant& acme = file->tenants[0];
  EXPECT_EQ(acme.name, "acme");
  EXPECT_EQ(acme.weight, 2.5);
  EXPECT_EQ(acme.kv_share, 0.25);
  EXPECT_EQ(acme.priority, 3);
  EXPECT_EQ(acme.priority_max, 9);
  EXPECT_EQ(acme.limits.requests_in_flight, 4);
  EXPECT_EQ(acme.limits.tokens_per_minute, 60000);
  EXPECT_THAT(acme.models, testing::ElementsAre("small", "large"));
  EXPECT_TRUE(acme.share_system_prompt);
  EXPECT_EQ(acme.cache_domain, "acme-prod");
  const Tenant& plain = file->tenants[1];
  EXPECT_EQ(plain.weight, 1);
  EXPECT_EQ(plain.kv_share, 1);
  EXPECT_EQ(plain.priority_max, 0);
  EXPECT_EQ(plain.limits.requests_in_flight, 0);
  EXPECT_TRUE(plain.models.empty());
  ASSERT_EQ(file->keys.size(), 1u);
  EXPECT_EQ(file->keys[0].tenant, 1u);
  EXPECT_EQ(file->keys[0].digest, DigestOf("hello"));
  EXPECT_EQ(file->keys[0].expires, absl::FromUnixSeconds(1896091200));
}

struct WrongCase {
  const char* from;
  const char* to;
  const char* error;
};

TEST(KeyFileTest, WhatIsWrongIsToldWithLineAndField) {
  const WrongCase cases[] = {
      {"2.5", "0", "line 3: tenants[0].weight is 0, must be a number above 0"},
      {"2.5", "\"2\"", "line 3: tenants[0].weight is \"2\", must be a number"},
      {"0.25", "1.5", "line 3: tenants[0].kv_share is 1.5"},
      {"\"priority_max\": 9", "\"priority_max\": 2",
       "line 3: tenants[0].priority_max is 2, below the priority 3"},
      {"\"priority\": 3", "\"priority\": 101", "line 3: tenants[0].priority is 101"},
      {"\"priority\": 3", "\"priority\": 1.5", "line 3: tenants[0].priority is 1.5"},
      {"60000", "-1", "line 4: tenants[0].limits.tokens_per_minute is -1"},
      {"60000", "18446744073709551615", "line 4: tenants[0].limits.tokens_per_minute is 1844"},
      {"{\"requests_in_flight\": 4, \"tokens_per_minute\": 60000}", "7",
       "line 4: tenants[0].limits must be an object"},
      {"tokens_per_minute", "token_per_minute",
       "line 4: tenants[0].limits.token_per_minute is not known; there is requests_in_flight"},
      {"[\"small\", \"large\"]", "[]", "line 5: tenants[0].models must be a list of 1 to"},
      {"\"large\"", "7", "line 5: tenants[0].models[1] must be the name of a model"},
      {"true", "1", "line 6: tenants[0].share_system_prompt must be true or false"},
      {"acme-prod", "acme prod", "line 7: tenants[0].cache_domain must be 1 to 64 letters"},
      {"\"name\": \"b\"", "\"name\": \"acme\"", "line 9: tenants[1].name `acme` is there twice"},
      {"\"name\": \"b\"", "\"weight\": 1", "line 9: tenants[1] has no name"},
      {"\"tenant\": \"b\"", "\"tenant\": \"c\"", "line 13: keys[0].tenant must be the name of"},
      {"2cf2", "xcf2", "line 12: keys[0].sha256 must be the 64 hexadecimal digits"},
      {"2cf2", "2c", "line 12: keys[0].sha256 must be"},
      {"2030-01-31T12:00:00Z", "soon", "line 14: keys[0].expires must be a time like"},
      {"\"of the build machines\"", "[]", "line 15: keys[0].comment must be a text"},
      {"\"comment\"", "\"tenant\"", "line 15: keys[0].tenant is given twice"},
      {"\"keys\": [", "\"keys\": {", "line 12: not valid JSON"},
      {"\"keys\"", "\"kees\"", "line 11: kees is not known; there is tenants, keys"},
  };
  for (const WrongCase& wrong : cases) {
    const std::string text = absl::StrReplaceAll(Good(), {{wrong.from, wrong.to}});
    ASSERT_NE(text, Good()) << wrong.from;
    const absl::StatusOr<KeyFile> file = ParseKeyFile(text);
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << wrong.error;
    EXPECT_THAT(std::string(file.status().message()), StartsWith(wrong.error));
  }
  for (const char* text :
       {"", "[]", "7", "{\"tenants\": []}", "{\"tenants\": {}, \"keys\": []}",
        "{\"tenants\": [7], \"keys\": []}", "{\"keys\": [], \"tenants\": [[]]}"}) {
    EXPECT_EQ(ParseKeyFile(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  // Cut off anywhere it is an error, never a crash or half a file.
  for (size_t size = 0; size + 3 < Good().size(); ++size) {
    EXPECT_FALSE(ParseKeyFile(Good().substr(0, size)).ok()) << size;
  }
}

TEST(KeyFileTest, ListsAreBounded) {
  std::string tenants;
  for (size_t i = 0; i <= kTenantsMax; ++i) {
    absl::StrAppend(&tenants, i == 0 ? "" : ",", "{\"name\":\"t", i, "\"}");
  }
  EXPECT_THAT(std::string(ParseKeyFile(absl::StrCat("{\"tenants\":[", tenants, "],\"keys\":[]}"))
                              .status()
                              .message()),
              HasSubstr("tenants has 1001 entries, at most 1000"));
}

class KeyFileOnDiskTest : public ::testing::Test {
 protected:
  KeyFileOnDiskTest()
      : directory_(std::filesystem::path(testing::TempDir()) /
                   absl::StrCat("keys-", testing::UnitTest::GetInstance()->random_seed(), "-",
                                testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  ~KeyFileOnDiskTest() override { std::filesystem::remove_all(directory_); }

  std::string path() const { return (directory_ / "keys.json").string(); }
  void Write(const std::string& text) const { std::ofstream(path()) << text; }

  const std::filesystem::path directory_;
};

TEST_F(KeyFileOnDiskTest, TheWatcherTellsEveryChangeOnce) {
  KeyFileWatcher watcher(path());
  auto missing = watcher.Poll();
  ASSERT_TRUE(missing.has_value());
  EXPECT_EQ(missing->status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing->status().message()), HasSubstr(path()));
  EXPECT_FALSE(watcher.Poll().has_value());
  Write(Good());
  auto read = watcher.Poll();
  ASSERT_TRUE(read.has_value() && read->ok());
  EXPECT_FALSE(watcher.Poll().has_value());
  Write("{");
  auto damaged = watcher.Poll();
  ASSERT_TRUE(damaged.has_value());
  EXPECT_THAT(std::string(damaged->status().message()), HasSubstr("keys.json, line 1"));
  EXPECT_FALSE(watcher.Poll().has_value());
  watcher.Forget();
  EXPECT_TRUE(watcher.Poll().has_value());
  // Put in its place by a rename, with the same size.
  std::ofstream(path() + ".new") << "[";
  std::filesystem::rename(path() + ".new", path());
  EXPECT_TRUE(watcher.Poll().has_value());
}

TEST_F(KeyFileOnDiskTest, WhatKeygenWritesIsRead) {
  KeygenOptions options;
  options.tenant = "acme";
  options.expires_days = 2;
  options.comment = "first";
  const absl::Time now = absl::FromUnixSeconds(1'800'000'000);
  const absl::StatusOr<NewKey> first = DrawKey(options, now);
  ASSERT_TRUE(first.ok());
  EXPECT_GE(first->key.size(), 40u);
  EXPECT_EQ(first->entry.find(first->key), std::string::npos);
  ASSERT_TRUE(AddToKeyFile(path(), "acme", first->entry).value());
  options.expires_days = 0;
  const absl::StatusOr<NewKey> second = DrawKey(options, now);
  ASSERT_TRUE(second.ok());
  EXPECT_NE(first->key, second->key);
  EXPECT_FALSE(AddToKeyFile(path(), "acme", second->entry).value());
  const absl::StatusOr<KeyFile> file = ReadKeyFile(path());
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tenants.size(), 1u);
  ASSERT_EQ(file->keys.size(), 2u);
  EXPECT_EQ(file->keys[0].digest, DigestOf(first->key));
  EXPECT_EQ(file->keys[0].expires, now + absl::Hours(48));
  EXPECT_EQ(file->keys[1].digest, DigestOf(second->key));
  EXPECT_EQ(file->keys[1].expires, absl::InfiniteFuture());
  EXPECT_EQ(std::filesystem::status(path()).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST_F(KeyFileOnDiskTest, KeygenLeavesAForeignFileAlone) {
  for (const char* text : {"not json", "[]", "{\"keys\": 7}"}) {
    Write(text);
    EXPECT_FALSE(AddToKeyFile(path(), "a", "{}").ok());
    std::ifstream in(path());
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), text);
    EXPECT_FALSE(std::filesystem::exists(path() + ".new"));
  }
  Write(Good());
  std::ofstream(path() + ".new") << "held";
  EXPECT_EQ(AddToKeyFile(path(), "a", "{}").status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tessera
