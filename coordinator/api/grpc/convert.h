// tessera.v1 messages -> what both front doors work with, and back. Any thread.

#ifndef TESSERA_COORDINATOR_API_GRPC_CONVERT_H_
#define TESSERA_COORDINATOR_API_GRPC_CONVERT_H_

#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/api/cost_report.h"
#include "coordinator/api/generation.h"
#include "coordinator/api/prompt.h"
#include "coordinator/api/served_model.h"
#include "coordinator/api/validate.h"
#include "tessera/v1/tessera.pb.h"

namespace tessera::api {

GenerateParams ToParams(const v1::SamplingParams& sampling, std::optional<int32_t> priority);
std::vector<ChatTurn> ToTurns(const v1::ChatRequest& request);
v1::Model ToProto(const ServedModel& model, bool ready);
// What is new of a choice.
v1::GenerateResponse ToProto(const ChoiceDelta& delta);
v1::Usage ToProto(const Usage& usage);
v1::Cost ToProto(const CostReport& report);
// `scores` of the prompt's tokens from the second on.
void FillPromptLogprobs(absl::Span<const int32_t> prompt, absl::Span<const TokenLogprobs> scores,
                        v1::GenerateResponse* response);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_GRPC_CONVERT_H_
