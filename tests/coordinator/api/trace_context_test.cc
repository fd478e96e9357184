// W3C trace context: what is taken over, what begins a new trace.

#include "coordinator/api/trace_context.h"

#include <gtest/gtest.h>

#include <string>

namespace tessera::api {
namespace {

constexpr char kTrace[] = "0af7651916cd43dd8448eb211c80319c";
constexpr char kSpan[] = "b7ad6b7169203331";

std::string Header(const std::string& version, const std::string& flags,
                   const std::string& more = "") {
  return version + "-" + kTrace + "-" + kSpan + "-" + flags + more;
}

TEST(TraceContextTest, TheTraceGoesOnWithASpanOfOurOwn) {
  RandomSource random(1);
  const TraceContext context = ContinueTrace(Header("00", "01"), random);
  EXPECT_EQ(context.trace_id, kTrace);
  EXPECT_EQ(context.flags, "01");
  EXPECT_EQ(context.span_id.size(), 16u);
  EXPECT_NE(context.span_id, kSpan);
  EXPECT_EQ(context.ToTraceparent(), std::string("00-") + kTrace + "-" + context.span_id + "-01");
  EXPECT_NE(ContinueTrace(Header("00", "01"), random).span_id, context.span_id);
}

TEST(TraceContextTest, LaterVersionsMaySayMore) {
  RandomSource random(1);
  EXPECT_EQ(ContinueTrace(Header("01", "00", "-what-comes"), random).trace_id, kTrace);
  EXPECT_EQ(ContinueTrace(Header("01", "00"), random).trace_id, kTrace);
}

TEST(TraceContextTest, WhatIsBrokenBeginsANewTrace) {
  const std::string zeros(32, '0');
  const std::string upper = "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01";
  for (const std::string& header :
       {std::string(), std::string("00"), Header("ff", "01"), Header("00", "01", "-more"),
        Header("01", "00", "more"), Header("0g", "01"), Header("00", "0x"), upper,
        "00-" + zeros + "-" + kSpan + "-01", std::string("00-") + kTrace + "-0000000000000000-01",
        Header("00", "01").replace(2, 1, "_"),
        std::string("00-") + kTrace + "-b7ad6b716920333\n-01"}) {
    RandomSource random(7);
    const TraceContext context = ContinueTrace(header, random);
    EXPECT_NE(context.trace_id, kTrace) << header;
    EXPECT_EQ(context.trace_id.size(), 32u);
    EXPECT_EQ(context.trace_id.find_first_not_of("0123456789abcdef"), std::string::npos);
    EXPECT_NE(context.trace_id, zeros);
    EXPECT_EQ(context.flags, "00");
  }
}

}  // namespace
}  // namespace tessera::api
