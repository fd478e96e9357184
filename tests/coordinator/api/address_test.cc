// Listen addresses as operators write them.

#include "coordinator/api/address.h"

#include <gtest/gtest.h>

namespace tessera::api {
namespace {

TEST(AddressTest, WhatOperatorsWrite) {
  EXPECT_EQ(ParseAddress("127.0.0.1:8000")->ToString(), "127.0.0.1:8000");
  EXPECT_EQ(ParseAddress("localhost:0")->ToString(), "127.0.0.1:0");
  EXPECT_EQ(ParseAddress(":80")->ToString(), "0.0.0.0:80");
  EXPECT_EQ(ParseAddress("*:80")->ToString(), "0.0.0.0:80");
  EXPECT_EQ(ParseAddress("[::1]:8000")->ToString(), "[::1]:8000");
  EXPECT_EQ(ParseAddress("[::1]:8000")->host, "::1");
}

TEST(AddressTest, LoopbackIsThisMachineAlone) {
  for (const char* local : {"localhost:1", "127.0.0.1:1", "127.8.9.10:1", "[::1]:1"}) {
    EXPECT_TRUE(ParseAddress(local)->IsLoopback()) << local;
  }
  for (const char* reachable : {":1", "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "192.168.127.1:1"}) {
    EXPECT_FALSE(ParseAddress(reachable)->IsLoopback()) << reachable;
  }
}

TEST(AddressTest, RefusalsQuoteTheAddress) {
  for (const char* bad : {"8000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000",
                          "::1:8000", "example.com:80", "127.0.0.1:-1"}) {
    const absl::Status status = ParseAddress(bad).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_NE(std::string(status.message()).find(bad), std::string::npos) << status;
  }
}

}  // namespace
}  // namespace tessera::api
