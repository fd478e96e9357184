// Calls without generated code, see raw_grpc.h. Field 1 of HealthCheckRequest is the service, field
// 1 of HealthCheckResponse the status (1 serving, 2 not); field 7 of ServerReflectionRequest is
// list_services.

#include "tests/coordinator/api/raw_grpc.h"

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <chrono>
#include <memory>
#include <vector>

namespace tessera::api {
namespace {

struct RawAnswer {
  grpc::Status status;
  std::string bytes;
};

// Sends one message, takes the first answer and the status.
RawAnswer Call(const std::string& address, const std::string& method, const std::string& message) {
  grpc::GenericStub stub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(&context, method, &queue);
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  call->StartCall(nullptr);
  wait();
  const grpc::Slice slice(message);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  wait();
  RawAnswer answer;
  grpc::ByteBuffer received;
  call->Read(&received, nullptr);
  if (wait()) {
    std::vector<grpc::Slice> slices;
    received.Dump(&slices);
    for (const grpc::Slice& part : slices) {
      answer.bytes.append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
  }
  call->Finish(&answer.status, nullptr);
  wait();
  return answer;
}

}  // namespace

HealthAnswer CheckHealth(const std::string& address, const std::string& service) {
  std::string message;
  if (!service.empty()) {
    message = std::string("\x0a") + static_cast<char>(service.size()) + service;
  }
  const RawAnswer answer = Call(address, "/grpc.health.v1.Health/Check", message);
  if (answer.status.error_code() == grpc::NOT_FOUND) return HealthAnswer::kUnknownService;
  if (answer.bytes == "\x08\x01") return HealthAnswer::kServing;
  if (answer.bytes == "\x08\x02") return HealthAnswer::kNotServing;
  return HealthAnswer::kOther;
}

ReflectionAnswer ListServices(const std::string& address) {
  const RawAnswer answer =
      Call(address, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
           std::string("\x3a\x01*", 3));
  return {answer.status, answer.bytes};
}

}  // namespace tessera::api
