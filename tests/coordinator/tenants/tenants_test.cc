// Who is let in, as whom, and which cache is whose.

#include "coordinator/tenants/tenants.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const absl::Time kNow = absl::FromUnixSeconds(1'000'000);

ServerSecret MakeSecret(uint8_t fill) {
  ServerSecret::Bytes bytes;
  bytes.fill(fill);
  return ServerSecret(bytes);
}

Tenant Named(const std::string& name) {
  Tenant tenant;
  tenant.name = name;
  return tenant;
}

ApiKey KeyOf(const std::string& key, size_t tenant) {
  return {.digest = DigestOf(key), .tenant = tenant, .expires = absl::InfiniteFuture()};
}

KeyFile TwoTenants() {
  KeyFile file;
  file.tenants = {Named("a"), Named("b")};
  file.tenants[1].weight = 3;
  file.tenants[1].kv_share = 0.5;
  file.tenants[1].priority = 2;
  file.tenants[1].priority_max = 7;
  file.tenants[1].models = {"small"};
  file.keys = {KeyOf("key-a", 0), KeyOf("key-b", 1), KeyOf("old", 0)};
  file.keys[2].expires = kNow;
  return file;
}

class TenantsTest : public ::testing::Test {
 protected:
  Metrics metrics_{{"m"}};
  Tenants tenants_{MakeSecret(1), metrics_};
};

TEST_F(TenantsTest, WithoutAKeyFileEverybodyIsTheDefaultTenant) {
  for (const char* key : {"", "anything"}) {
    const absl::StatusOr<Caller> caller = tenants_.Identify(key, kNow);
    ASSERT_TRUE(caller.ok());
    EXPECT_EQ(caller->tenant, "default");
    EXPECT_EQ(caller->priority_max, kPriorityMax);
    EXPECT_TRUE(caller->MayUse("whatever"));
    EXPECT_NE(caller->cache.key, CacheDomain::Key{});
  }
  EXPECT_TRUE(tenants_.limits().TryAdmit("default", 1 << 30, kNow).ok());
  ASSERT_EQ(tenants_.Policies().tenants.size(), 1u);
  EXPECT_EQ(tenants_.Policies().tenants[0].name, "default");
}

TEST_F(TenantsTest, AKeySaysWhoIsCalling) {
  tenants_.Use(TwoTenants());
  const absl::StatusOr<Caller> caller = tenants_.Identify("key-b", kNow);
  ASSERT_TRUE(caller.ok()) << caller.status();
  EXPECT_EQ(caller->tenant, "b");
  EXPECT_EQ(caller->priority, 2);
  EXPECT_EQ(caller->priority_max, 7);
  EXPECT_THAT(caller->models, ElementsAre("small"));
  EXPECT_EQ(tenants_.Identify("key-a", kNow)->tenant, "a");
  const SetTenants policies = tenants_.Policies();
  ASSERT_EQ(policies.tenants.size(), 2u);
  EXPECT_EQ(policies.tenants[1].weight, 3);
  EXPECT_EQ(policies.tenants[1].kv_share, 0.5);
}

TEST_F(TenantsTest, OthersAreRefusedAndCounted) {
  tenants_.Use(TwoTenants());
  for (const char* key : {"", "key-", "key-aa", "KEY-A", "key-c"}) {
    EXPECT_EQ(tenants_.Identify(key, kNow).status().code(), absl::StatusCode::kUnauthenticated);
  }
  const std::string no_end(1 << 20, 'x');
  EXPECT_EQ(tenants_.Identify(no_end, kNow).status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_TRUE(tenants_.Identify("old", kNow - absl::Nanoseconds(1)).ok());
  EXPECT_THAT(std::string(tenants_.Identify("old", kNow).status().message()), HasSubstr("expired"));
  const std::string text = metrics_.Expose();
  EXPECT_THAT(text, HasSubstr("tessera_authentication_failures_total{reason=\"missing\"} 1"));
  EXPECT_THAT(text, HasSubstr("tessera_authentication_failures_total{reason=\"unknown\"} 5"));
  EXPECT_THAT(text, HasSubstr("tessera_authentication_failures_total{reason=\"expired\"} 1"));
}

TEST_F(TenantsTest, AKeyThatIsTakenOutIsRefusedAtOnce) {
  tenants_.Use(TwoTenants());
  TenantLimits::Lease running = *tenants_.limits().TryAdmit("b", 10, kNow);
  KeyFile next = TwoTenants();
  next.tenants.pop_back();
  next.keys = {KeyOf("key-a", 0), KeyOf("newer", 0)};
  tenants_.Use(next);
  EXPECT_FALSE(tenants_.Identify("key-b", kNow).ok());
  EXPECT_TRUE(tenants_.Identify("newer", kNow).ok());
  EXPECT_FALSE(tenants_.limits().TryAdmit("b", 1, kNow).ok());
  running.Release(5);
  tenants_.Use(KeyFile{});  // nobody at all
  EXPECT_FALSE(tenants_.Identify("key-a", kNow).ok());
}

TEST(ServerSecretTest, CachesAreApartUnlessTenantsAgree) {
  const ServerSecret secret = MakeSecret(1);
  Tenant alone = Named("a");
  Tenant sharing = Named("b");
  sharing.share_system_prompt = true;
  Tenant sharing_too = Named("c");
  sharing_too.share_system_prompt = true;
  Tenant joined = Named("d");
  joined.cache_domain = "team";
  Tenant joined_too = Named("e");
  joined_too.cache_domain = "team";
  Tenant impostor = Named("f");
  impostor.cache_domain = "a";
  EXPECT_NE(secret.CacheOf(alone).key, secret.CacheOf(sharing).key);
  EXPECT_NE(secret.CacheOf(alone).key, secret.CacheOf(impostor).key);
  EXPECT_EQ(secret.CacheOf(joined).key, secret.CacheOf(joined_too).key);
  EXPECT_EQ(secret.CacheOf(sharing).shared_key, secret.CacheOf(sharing_too).shared_key);
  EXPECT_NE(secret.CacheOf(sharing).key, secret.CacheOf(sharing_too).key);
  EXPECT_EQ(secret.CacheOf(alone).shared_key, secret.CacheOf(alone).key);
  EXPECT_EQ(secret.CacheOf(alone).num_shared_tokens, 0u);
  // The same in every process with this secret, others with any other.
  EXPECT_EQ(secret.CacheOf(alone).key, MakeSecret(1).CacheOf(alone).key);
  EXPECT_NE(secret.CacheOf(alone).key, MakeSecret(2).CacheOf(alone).key);
  EXPECT_NE(ServerSecret::Draw()->CacheOf(alone).key, ServerSecret::Draw()->CacheOf(alone).key);
}

TEST(ServerSecretTest, DerivationIsHmacSha256) {
  // Computed with: printf 'tessera 1\ncache of tenant\na' | openssl dgst -sha256 -mac HMAC
  //                -macopt hexkey:0101..01
  const CacheDomain::Key key = MakeSecret(1).CacheOf(Named("a")).key;
  std::string hex;
  for (const uint8_t byte : key) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  EXPECT_EQ(hex, "a7b1149537b3b8fee97611c3a485e9a7dfd35e20f8634cf456f87d8214d328bc");
}

TEST(ServerSecretTest, AFileOfEnoughBytes) {
  const std::string path = testing::TempDir() + "/tessera-secret-test";
  const auto write = [&](size_t size) {
    std::ofstream(path, std::ios::binary) << std::string(size, 'k');
  };
  write(32);
  const absl::StatusOr<ServerSecret> secret = ServerSecret::FromFile(path);
  ASSERT_TRUE(secret.ok()) << secret.status();
  EXPECT_EQ(secret->CacheOf(Named("a")).key, ServerSecret::FromFile(path)->CacheOf(Named("a")).key);
  for (const size_t size : {size_t{0}, size_t{31}, kSecretFileBytesMax + 1}) {
    write(size);
    EXPECT_EQ(ServerSecret::FromFile(path).status().code(), absl::StatusCode::kInvalidArgument);
  }
  std::filesystem::remove(path);
  EXPECT_EQ(ServerSecret::FromFile(path).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TenantsTest, ReloadsWhileManyCall) {
  tenants_.Use(TwoTenants());
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!done) {
        EXPECT_TRUE(tenants_.Identify("key-a", kNow).ok());
        EXPECT_FALSE(tenants_.Identify("key-c", kNow).ok());
        tenants_.limits().TryAdmit("a", 1, kNow)->Release(1);
      }
    });
  }
  for (int i = 0; i < 200; ++i) tenants_.Use(TwoTenants());
  done = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace tessera
