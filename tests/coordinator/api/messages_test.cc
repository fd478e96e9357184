// What a client reads when a number is wrong: the parameter, what it may be, what was met.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/api/api_fixture.h"

namespace tessera::api {
namespace {

using nlohmann::json;

class MessagesTest : public ApiFixture {};

TEST_F(MessagesTest, WrongNumbers) {
  struct Case {
    std::string pair;
    std::string says;  // in which V is the size of the vocabulary
    std::string code;
  };
  const std::string of_64_bits = "must be an integer from -9223372036854775808 to ";
  for (const Case& bad : std::vector<Case>{
           {R"("seed":18446744073709551616)",
            "`seed` " + of_64_bits + "18446744073709551615, it is 1.8446744073709552e+19",
            "invalid_value"},
           {R"("seed":-9223372036854775809)",
            "`seed` " + of_64_bits + "18446744073709551615, it is -9.223372036854776e+18",
            "invalid_value"},
           {R"("seed":0.5)", "`seed` must be an integer, it is 0.5", "invalid_type"},
           {R"("seed":"7")", "`seed` must be an integer, it is of type string", "invalid_type"},
           {R"("best_of":1e30)", "`best_of` " + of_64_bits + "9223372036854775807, it is 1e+30",
            "invalid_value"},
           {R"("best_of":1.5)", "`best_of` must be an integer, it is 1.5", "invalid_type"},
           {R"("best_of":129)", "`best_of` must be from 1 to 128, it is 129", "invalid_value"},
           {R"("n":18446744073709551615)",
            "`n` " + of_64_bits + "9223372036854775807, it is 18446744073709551615",
            "invalid_value"},
           {R"("n":true)", "`n` must be an integer, it is of type boolean", "invalid_type"},
           {R"("top_k":-5)",
            "`top_k` must be from 1 to the vocabulary's V, or 0 or -1 (off), it is -5",
            "invalid_value"},
           {R"("max_tokens":0)",
            "`max_tokens` must be at least 1, it is 0; 0 is for /v1/completions with `echo`, to "
            "score a prompt",
            "invalid_value"},
           {R"("max_tokens":-1,"echo":true)",
            "`max_tokens` must be at least 1, it is -1; 0 is for /v1/completions with `echo`, to "
            "score a prompt",
            "invalid_value"}}) {
    const HttpResponse response =
        Post("/v1/completions", absl::StrCat(R"({"prompt":"x",)", bad.pair, "}"));
    EXPECT_EQ(response.status, 400) << bad.pair;
    std::string expected = bad.says;
    if (const size_t place = expected.find(" V,"); place != std::string::npos) {
      expected.replace(place + 1, 1, absl::StrCat(model_.spec.vocab_size));
    }
    EXPECT_EQ(response.json()["error"]["message"], expected);
    EXPECT_EQ(response.json()["error"]["code"], bad.code) << response.body;
  }
  // And what they say may be is taken.
  for (const char* good : {R"("seed":18446744073709551615)", R"("seed":-9223372036854775808)",
                           R"("top_k":-1)", R"("top_k":0)", R"("top_k":1)", R"("best_of":2)"}) {
    EXPECT_EQ(Post("/v1/completions", absl::StrCat(R"({"prompt":"x",)", good, "}")).status, 200)
        << good;
  }
}

}  // namespace
}  // namespace tessera::api
