// Bytes from the network -> request objects: must never crash, and whatever is accepted must be
// within the limits. The first byte chooses the parser.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "coordinator/api/http/openai_request.h"
#include "coordinator/api/http/percent.h"
#include "coordinator/api/json_request.h"
#include "coordinator/api/status_map.h"

namespace {

using namespace tessera::api;  // NOLINT: a program of one function

void CheckRefusal(const absl::Status& status) {
  const int http = HttpOf(status);
  TESSERA_CHECK(http >= 400 && http < 500) << status.ToString();
  // The error object must be JSON, whatever of the input it quotes.
  TESSERA_CHECK(Json::accept(ErrorJson(status, "req"))) << status.ToString();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 3) {
    case 0: {
      const auto request = ParseChatCompletion(body);
      if (!request.ok()) {
        CheckRefusal(request.status());
      } else {
        TESSERA_CHECK(!request->messages.empty() && request->messages.size() <= kMessagesMax);
      }
      break;
    }
    case 1: {
      const auto request = ParseCompletion(body);
      if (!request.ok()) CheckRefusal(request.status());
      break;
    }
    default: {
      const auto json = ParseJsonObject(body);
      if (!json.ok()) {
        CheckRefusal(json.status());
      } else {
        TESSERA_CHECK(ParseJsonObject(json->dump()).ok());
      }
      TESSERA_CHECK(PercentDecode(body).size() <= body.size());
      break;
    }
  }
  return 0;
}
