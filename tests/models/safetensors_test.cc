// The safetensors header: what is accepted, and the words for every way it can be wrong.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "models/checkpoint.h"
#include "tests/models/model_files.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Message(const std::string& file) {
  return std::string(ParseSafetensorsHeader(file, file.size()).status().message());
}

std::string Tensor(const std::string& name, int begin, int end, const std::string& shape) {
  return "\"" + name + "\":{\"dtype\":\"F32\",\"shape\":" + shape + ",\"data_offsets\":[" +
         std::to_string(begin) + "," + std::to_string(end) + "]}";
}

TEST(Safetensors, ReadsTensorsInOrderOfPlace) {
  const std::string header = "{\"__metadata__\":{\"format\":\"pt\"}," + Tensor("b", 24, 28, "[1]") +
                             "," + Tensor("a", 0, 24, "[2, 3]") + "," +
                             Tensor("empty", 24, 24, "[0, 5]") + "," +
                             Tensor("scalar", 28, 32, "[]") + "}   ";
  const std::string file = SafetensorsFile(header, std::string(32, 'x'));
  const auto tensors = ParseSafetensorsHeader(file, file.size());
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 4u);
  const uint64_t data = 8 + header.size();
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_THAT((*tensors)[0].shape, ElementsAre(2, 3));
  EXPECT_EQ((*tensors)[0].dtype, DType::kFloat32);
  EXPECT_EQ((*tensors)[0].begin, data);
  EXPECT_EQ((*tensors)[0].end, data + 24);
  EXPECT_EQ((*tensors)[1].name, "empty");
  EXPECT_EQ((*tensors)[2].name, "b");
  EXPECT_EQ((*tensors)[3].end, file.size());
}

TEST(Safetensors, TheHeaderAloneIsEnough) {
  const std::string file = SafetensorsFile({{"a", {100}}});
  const std::string prefix = file.substr(0, file.size() - 400);
  EXPECT_TRUE(ParseSafetensorsHeader(prefix, file.size()).ok());
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const std::string file = SafetensorsFile({{"a", {2, 2}}, {"b", {3}, "BF16"}});
  ASSERT_TRUE(ParseSafetensorsHeader(file, file.size()).ok());
  for (size_t bytes = 0; bytes < file.size(); ++bytes) {
    EXPECT_FALSE(ParseSafetensorsHeader(file.substr(0, bytes), bytes).ok()) << bytes;
  }
  EXPECT_THAT(Message(file.substr(0, file.size() - 1)),
              AllOf(HasSubstr("truncated"), HasSubstr("'b'")));
  EXPECT_THAT(Message(file.substr(0, 30)), HasSubstr("truncated"));
  EXPECT_THAT(Message(file + "x"), HasSubstr("belong to none"));
}

TEST(Safetensors, HugeHeaderLength) {
  EXPECT_THAT(Message(std::string(8, '\xff') + "{}"), HasSubstr("at most 100000000"));
  const std::string file = SafetensorsFile("{}", "");
  EXPECT_TRUE(ParseSafetensorsHeader(file, file.size()).ok());
}

struct BadHeader {
  std::string header;
  int data_bytes;
  const char* message;
};

TEST(Safetensors, DamagedHeadersNameTheTensor) {
  const BadHeader cases[] = {
      {"{" + Tensor("a", 0, 8, "[2]") + "," + Tensor("b", 4, 12, "[2]") + "}", 12,
       "'a' and 'b' overlap"},
      {"{" + Tensor("a", 0, 8, "[2]") + "," + Tensor("b", 0, 8, "[2]") + "}", 8, "overlap"},
      {"{" + Tensor("a", 0, 8, "[2]") + "," + Tensor("b", 12, 16, "[1]") + "}", 16,
       "a hole of 4 bytes lies before tensor 'b'"},
      {"{" + Tensor("a", 4, 8, "[1]") + "}", 8, "a hole of 4 bytes"},
      {"{" + Tensor("a", 0, 8, "[3]") + "}", 8, "tensor 'a' has data_offsets [0, 8], but 12 bytes"},
      {"{" + Tensor("a", 8, 0, "[2]") + "}", 8, "data_offsets [8, 0]"},
      {"{" + Tensor("a", 0, 4, "[1]") + "," + Tensor("a", 4, 8, "[1]") + "}", 8,
       "'a' is there twice"},
      {"{" + Tensor("a", 0, 4, "[4611686018427387904, 8]") + "}", 4, "too large"},
      {"{" + Tensor("a", 0, 4, "[18446744073709551615]") + "}", 4,
       "dimension of 18446744073709551615"},
      {"{" + Tensor("a", 0, 4, "[-1]") + "}", 4, "'a' has a negative number"},
      {"{" + Tensor("a", 0, 4, "[1.0]") + "}", 4, "'a' has a fraction"},
      {"{" + Tensor("a", 0, 4, "[[1]]") + "}", 4, "'a' has an array"},
      {"{" + Tensor("a", 0, 4, "[1,1,1,1,1,1,1,1,1]") + "}", 4, "more than 8 dimensions"},
      {R"({"a":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]}})", 1, "dtype 'F8_E5M2'"},
      {R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", 4, "'a' has a number"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "'a' lacks one of"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4,
       "does not have two data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4,
       "more than two data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", 4, "shape twice"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}})", 4,
       "unknown field 'extra'"},
      {R"({"a":{"dtype":"F32","shape":{},"data_offsets":[0,4]}})", 4, "'a' has an object"},
      {R"({"a\u001b[2J":{}})", 0, "control characters"},
      {R"({"a":null})", 0, "'a' has null"},
      {R"({"a":[1]})", 0, "'a' has an array"},
      {R"({"a)", 0, "not valid JSON"},
      {R"([1])", 0, "the header is an array"},
      {R"("a")", 0, "the header is a string"},
      {R"({} {})", 0, "not valid JSON"},
      {"{\"" + std::string(1025, 'n') + "\":{}}", 0, "more than 1024 bytes"},
      {std::string(100000, '['), 0, "the header is an array"},
  };
  for (const BadHeader& bad : cases) {
    const std::string file = SafetensorsFile(bad.header, std::string(bad.data_bytes, 'x'));
    EXPECT_EQ(ParseSafetensorsHeader(file, file.size()).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(file), HasSubstr(bad.message)) << bad.header.substr(0, 200);
  }
}

}  // namespace
}  // namespace tessera
