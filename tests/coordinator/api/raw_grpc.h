// grpc.health.v1 and reflection as bytes: the two need no generated code, their messages are one
// field each.

#ifndef TESSERA_TESTS_COORDINATOR_API_RAW_GRPC_H_
#define TESSERA_TESTS_COORDINATOR_API_RAW_GRPC_H_

#include <grpcpp/support/status.h>

#include <string>

namespace tessera::api {

enum class HealthAnswer { kServing, kNotServing, kUnknownService, kOther };

HealthAnswer CheckHealth(const std::string& address, const std::string& service);

struct ReflectionAnswer {
  grpc::Status status;
  std::string bytes;
};

// ServerReflectionInfo{list_services}.
ReflectionAnswer ListServices(const std::string& address);

}  // namespace tessera::api

#endif  // TESSERA_TESTS_COORDINATOR_API_RAW_GRPC_H_
