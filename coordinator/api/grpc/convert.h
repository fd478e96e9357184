// tessera.v1 messages -> what both front doors work with, and back. Any thread.

#ifndef TESSERA_COORDINATOR_API_GRPC_CONVERT_H_
#define TESSERA_COORDINATOR_API_GRPC_CONVERT_H_

#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/api/generation.h"
#include "coordinator/api/prompt.h"
#include "coordinator/api/served_model.h"
#include "coordinator/api/validate.h"
#include "tessera/v1/tessera.pb.h"

namespace tessera::api {

// UNIMPLEMENTED naming the field where a reserved one asks for something.
absl::StatusOr<GenerateParams> ToParams(const v1::SamplingParams& sampling, int32_t priority);
std::vector<ChatTurn> ToTurns(const v1::ChatRequest& request);
v1::Model ToProto(const ServedModel& model, bool ready);
// The end of a stream into its last message.
void FillEnd(const Generation::Delta& end, v1::GenerateResponse* response);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_GRPC_CONVERT_H_
