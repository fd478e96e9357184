// Listen addresses, see address.h.

#include "coordinator/api/address.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tessera::api {

std::string Address::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

bool Address::IsLoopback() const {
  boost::system::error_code error;
  const auto address = boost::asio::ip::make_address(host, error);
  return !error && address.is_loopback();
}

absl::StatusOr<Address> ParseAddress(const std::string& text) {
  const auto refuse = [&text](const char* what) {
    return absl::InvalidArgumentError(absl::StrCat("the listen address \"", text, "\" ", what,
                                                   "; write host:port, [v6]:port or :port"));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return refuse("has no port");
  Address address;
  address.host = text.substr(0, colon);
  uint32_t port = 0;
  if (!absl::SimpleAtoi(text.substr(colon + 1), &port) || port > 65535) {
    return refuse("has no port from 0 to 65535");
  }
  address.port = static_cast<uint16_t>(port);
  if (address.host.size() > 2 && address.host.front() == '[' && address.host.back() == ']') {
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find(':') != std::string::npos) {
    return refuse("is ambiguous");
  }
  if (address.host.empty() || address.host == "*") address.host = "0.0.0.0";
  if (address.host == "localhost") address.host = "127.0.0.1";
  boost::system::error_code error;
  boost::asio::ip::make_address(address.host, error);
  if (error) return refuse("has a host that is no numeric address");
  return address;
}

absl::Status CannotListen(const std::string& door, const Address& address, const std::string& why) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address.ToString(), " for ", door, ": ", why,
                   "; stop what uses that port, or choose another one (port 0 picks a free one)"));
}

std::string WhyNotBindable(const Address& address) {
  boost::asio::io_context io;
  boost::asio::ip::tcp::acceptor acceptor(io);
  boost::system::error_code error;
  const boost::asio::ip::tcp::endpoint endpoint(boost::asio::ip::make_address(address.host, error),
                                                address.port);
  if (!error) acceptor.open(endpoint.protocol(), error);
  if (!error) {
    boost::system::error_code
        ignored;  // as real listeners do; without it a fresh restart would fail
    acceptor.set_option(boost::asio::socket_base::reuse_address(true), ignored);
    acceptor.bind(endpoint, error);
  }
  if (!error) acceptor.listen(1, error);
  return error ? error.message() : std::string();
}

}  // namespace tessera::api
