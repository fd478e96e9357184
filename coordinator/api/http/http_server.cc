// Accepting connections, see http_server.h.

#include "coordinator/api/http/http_server.h"

#include <spdlog/spdlog.h>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <utility>

#include "coordinator/api/http/http_session.h"

namespace tessera::api {
namespace {

namespace asio = boost::asio;
using Error = boost::system::error_code;

constexpr auto kAcceptPause = std::chrono::milliseconds(100);  // when the process has no file left

void OnAccept(const std::shared_ptr<HttpServer::Shared>& shared, HttpSession::Socket socket) {
  Error ignored;
  socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  auto session = std::make_shared<HttpSession>(shared, std::move(socket));
  bool refuse = false;
  {
    absl::MutexLock lock(&shared->mutex);
    if (shared->stopped) return;
    refuse = shared->sessions.size() >= shared->options.connections_max;
    shared->sessions.insert(session);
    shared->metrics.http_connections().Increment();
  }
  session->Start(refuse);
}

// The acceptor has a strand of its own, so that Stop and the next accept never meet.
void Accept(std::shared_ptr<HttpServer::Shared> shared) {
  IoContext& io = shared->pool.io();
  shared->acceptor->async_accept(
      asio::make_strand(io), [shared](Error error, HttpSession::Socket socket) {
        if (!shared->acceptor->is_open()) return;
        if (!error) {
          OnAccept(shared, std::move(socket));
          return Accept(shared);
        }
        spdlog::warn("http: cannot accept a connection: {}", error.message());
        auto pause = std::make_shared<asio::steady_timer>(shared->acceptor->get_executor());
        pause->expires_after(kAcceptPause);
        pause->async_wait([shared, pause](Error) {
          if (shared->acceptor->is_open()) Accept(shared);
        });
      });
}

}  // namespace

HttpServer::HttpServer(IoPool& pool, HttpOptions options, Metrics& metrics)
    : shared_(std::make_shared<Shared>(std::move(options), pool, metrics)) {}

HttpServer::~HttpServer() { Stop(); }

absl::StatusOr<Address> HttpServer::Start(const Address& address) {
  shared_->acceptor =
      std::make_shared<asio::ip::tcp::acceptor>(asio::make_strand(shared_->pool.io()));
  asio::ip::tcp::acceptor& acceptor = *shared_->acceptor;
  Error error;
  const asio::ip::tcp::endpoint endpoint(asio::ip::make_address(address.host, error), address.port);
  if (!error) acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return CannotListen("HTTP", address, error.message());
  Address bound = address;
  bound.port = acceptor.local_endpoint(error).port();
  asio::post(acceptor.get_executor(), [shared = shared_] { Accept(shared); });
  return bound;
}

void HttpServer::Stop() {
  std::set<std::shared_ptr<HttpSession>> sessions;
  {
    absl::MutexLock lock(&shared_->mutex);
    if (shared_->stopped) return;
    shared_->stopped = true;
    sessions = shared_->sessions;
  }
  if (shared_->acceptor != nullptr) {
    asio::post(shared_->acceptor->get_executor(), [shared = shared_] {
      Error ignored;
      shared->acceptor->close(ignored);
    });
  }
  for (const std::shared_ptr<HttpSession>& session : sessions) session->Stop();
}

void HttpServer::CutOff() {
  absl::MutexLock lock(&shared_->mutex);
  for (const std::shared_ptr<HttpSession>& session : shared_->sessions) session->CutOff();
}

}  // namespace tessera::api
