// The bounded JSON parser and its typed fields, with bodies that must not be taken.

#include "coordinator/api/json_request.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

std::string Nested(int depth) {
  return "{\"a\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
}

TEST(JsonRequestTest, TakesWhatIsValid) {
  const auto json = ParseJsonObject(
      R"({"a":[1,-2,3.5,{"b":[[]]},"x\u00e9",null,true],"c":{"d":{}},"e":18446744073709551615})");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ((*json)["a"].size(), 7u);
  EXPECT_EQ((*json)["a"][3]["b"][0], Json::array());
  EXPECT_EQ((*json)["a"][4], "x\xC3\xA9");
  EXPECT_EQ((*json)["c"]["d"], Json::object());
  EXPECT_EQ((*json)["e"], 18446744073709551615u);
}

TEST(JsonRequestTest, RefusesWhatIsNot) {
  struct Case {
    std::string body;
    std::string says;
  };
  const Case cases[] = {
      {"", "unexpected end"},
      {"{", "byte 2"},
      {R"({"a":1,})", "byte 8"},
      {R"({"a":NaN})", "byte"},
      {R"({"a":1e999})", "number overflow"},
      {R"({"a":1} x)", "byte 9"},
      {R"({"a":1,"b":2,"a":3})", "\"a\" comes twice"},
      {"{\"a\":\"\xff\"}", "UTF-8"},
      {"{\"a\":\"\xc3\"}", "UTF-8"},
      {"[1]", "must be a JSON object"},
      {"\"text\"", "must be a JSON object"},
      {"null", "must be a JSON object"},
      {Nested(kJsonDepthMax), "nest deeper than 64"},
      {std::string(1 << 20, '['), "nest deeper than 64"},
  };
  for (const Case& bad : cases) {
    const auto json = ParseJsonObject(bad.body);
    ASSERT_FALSE(json.ok()) << bad.body.substr(0, 100);
    EXPECT_EQ(json.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(CodeOf(json.status()), "invalid_json");
    EXPECT_NE(std::string(json.status().message()).find(bad.says), std::string::npos)
        << json.status();
  }
  EXPECT_TRUE(ParseJsonObject(Nested(kJsonDepthMax - 1)).ok());
}

TEST(JsonRequestTest, BoundsTheNumberOfValues) {
  std::string body = "{\"a\":[0";
  for (size_t i = 0; i < kJsonValuesMax; ++i) body += ",0";
  const auto json = ParseJsonObject(body + "]}");
  ASSERT_FALSE(json.ok());
  EXPECT_NE(std::string(json.status().message()).find("more than 2000000 values"),
            std::string::npos);
}

TEST(JsonRequestTest, FieldsNameTheParameterAndTheType) {
  const Json json = Json::parse(
      R"({"number":1.5,"integer":7,"text":"x","flag":true,"null":null,"list":[1,"a"],
          "big":18446744073709551615})");
  const JsonFields fields(json, "outer.");
  std::optional<double> number;
  std::optional<int64_t> integer;
  std::optional<bool> flag;
  std::optional<std::string> text;
  std::vector<int32_t> ids;
  std::vector<std::string> strings;
  EXPECT_TRUE(fields.Read("number", &number).ok());
  EXPECT_EQ(number, 1.5);
  EXPECT_TRUE(fields.Read("integer", &integer).ok());
  EXPECT_EQ(integer, 7);
  EXPECT_TRUE(fields.Read("missing", &flag).ok());
  EXPECT_TRUE(fields.Read("null", &flag).ok());
  EXPECT_FALSE(flag.has_value());
  EXPECT_TRUE(fields.ReadStrings("text", &strings).ok());
  EXPECT_EQ(strings, std::vector<std::string>{"x"});
  for (const absl::Status& status :
       {fields.Read("text", &number), fields.Read("number", &integer), fields.Read("text", &flag),
        fields.Read("integer", &text), fields.Read("integer", &ids), fields.Read("list", &ids),
        fields.ReadStrings("list", &strings), fields.Read("big", &integer)}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ParamOf(status).rfind("outer.", 0), 0u) << status;
  }
}

TEST(JsonRequestTest, TokenIdsAreChecked) {
  EXPECT_EQ(*ReadTokenIds(Json::parse("[0,1,2147483647]"), "p"),
            (std::vector<int32_t>{0, 1, 2147483647}));
  for (const char* bad :
       {"[-1]", "[2147483648]", "[18446744073709551615]", "[1.5]", "[true]", "7"}) {
    EXPECT_EQ(ParamOf(ReadTokenIds(Json::parse(bad), "p").status()), "p") << bad;
  }
}

TEST(JsonRequestTest, SeedsOfEitherSign) {
  const Json json = Json::parse(R"({"a":-1,"b":18446744073709551615,"c":1.5})");
  std::optional<uint64_t> seed;
  EXPECT_TRUE(JsonFields(json).ReadSeed("a", &seed).ok());
  EXPECT_EQ(seed, ~uint64_t{0});
  EXPECT_TRUE(JsonFields(json).ReadSeed("b", &seed).ok());
  EXPECT_EQ(seed, ~uint64_t{0});
  EXPECT_EQ(ParamOf(JsonFields(json).ReadSeed("c", &seed)), "c");
}

}  // namespace
}  // namespace tessera::api
