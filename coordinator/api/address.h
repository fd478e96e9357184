// "host:port" as operators write it, and binding to it. Used by every listener at start, on main's
// thread.

#ifndef TESSERA_COORDINATOR_API_ADDRESS_H_
#define TESSERA_COORDINATOR_API_ADDRESS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::api {

struct Address {
  std::string host;  // numeric, IPv6 without brackets
  uint16_t port = 0;

  std::string ToString() const;  // "[::1]:8000"
  bool IsLoopback() const;       // only this machine can call
};

// host:port, [v6]:port, :port and *:port (all interfaces), localhost:port.
absl::StatusOr<Address> ParseAddress(const std::string& text);

// UNAVAILABLE: which door cannot listen where, why, and what to do about it.
absl::Status CannotListen(const std::string& door, const Address& address, const std::string& why);
// Tries to bind and lets go again: what the operating system says, "" when it works.
std::string WhyNotBindable(const Address& address);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_ADDRESS_H_
