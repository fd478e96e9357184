// One Generate or Chat call: runs the generation on a strand of the I/O pool and streams its text.
// The next message is written only when the last one has gone out; what comes meanwhile of one
// choice goes in one piece, and the choices take turns. gRPC's threads only post to the strand.

#ifndef TESSERA_COORDINATOR_API_GRPC_GENERATE_REACTOR_H_
#define TESSERA_COORDINATOR_API_GRPC_GENERATE_REACTOR_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/api/front_door.h"
#include "coordinator/api/grpc/call_end.h"
#include "coordinator/api/io_pool.h"
#include "tessera/v1/tessera.pb.h"

namespace tessera::api {

// A validated call: what Generate and Chat have in common from here on.
struct PreparedCall {
  const ServedModel* model = nullptr;
  GenerateParams params;
  Prompt prompt;
};

class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                              public std::enable_shared_from_this<GenerateReactor> {
 public:
  using Prepare = std::function<absl::StatusOr<PreparedCall>(const Caller& caller)>;
  // `prepare` parses, validates and tokenizes; it runs on the strand. `request_bytes`: what the
  // call's message holds of the server's memory. The reactor owns itself until OnDone.
  static GenerateReactor* Launch(FrontDoor& door, SerialExecutor executor,
                                 absl::Duration write_deadline,
                                 grpc::CallbackServerContext* context, const char* method,
                                 size_t request_bytes, Prepare prepare);

  GenerateReactor(FrontDoor& door, SerialExecutor executor, absl::Duration write_deadline,
                  grpc::CallbackServerContext* context, const char* method);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // All on the strand.
  void Begin(size_t request_bytes, const Prepare& prepare);
  absl::Status TryBegin(size_t request_bytes, const Prepare& prepare);
  v1::GenerateResponse NextMessage(ChoiceDelta delta, bool last);
  void Pump();
  void Send();
  void End(const absl::Status& status);
  void ArmWriteDeadline();

  FrontDoor& door_;
  const SerialExecutor executor_;
  const absl::Duration write_deadline_;
  grpc::CallbackServerContext* const context_;  // until Finish
  CallRecord record_;
  const bool include_cost_;
  std::shared_ptr<GenerateReactor> self_;  // set in Launch, let go in OnDone

  BodyLease body_lease_;  // gRPC keeps the message until the call is done
  std::unique_ptr<Generation> generation_;
  boost::asio::steady_timer write_timer_;
  std::vector<ChoiceDelta> pending_;  // by choice, not written yet; bounded by the request's limits
  std::vector<TokenLogprobs> prompt_logprobs_;  // for the first message
  size_t turn_ = 0;                             // the choice that is asked first for a message
  v1::GenerateResponse writing_message_;
  bool finished_ = false;  // the generation; then:
  absl::Status status_;
  Usage usage_;
  std::optional<CostReport> cost_;
  bool first_ = true;
  bool writing_ = false;
  bool cancelled_ = false;
  bool sent_end_ = false;
  bool ended_ = false;  // Finish was called
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_GRPC_GENERATE_REACTOR_H_
