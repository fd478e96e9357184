// Sockets for tests, see socket_client.h.

#include "tests/coordinator/api/socket_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace tessera::api {
namespace {

constexpr int kReadSeconds = 10;

}  // namespace

std::vector<std::string> HttpResponse::events() const {
  std::vector<std::string> events;
  size_t begin = 0;
  while (begin < body.size()) {
    const size_t end = body.find("\n\n", begin);
    if (end == std::string::npos) break;
    const std::string event = body.substr(begin, end - begin);
    if (event.rfind("data: ", 0) == 0) events.push_back(event.substr(6));
    begin = end + 2;
  }
  return events;
}

SocketClient::SocketClient(const std::string& address) {
  const size_t colon = address.rfind(':');
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + colon + 1)));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &target.sin_addr);
  socket_ = socket(AF_INET, SOCK_STREAM, 0);
  const timeval timeout{.tv_sec = kReadSeconds, .tv_usec = 0};
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
  if (connect(socket_, reinterpret_cast<const sockaddr*>(&target), sizeof(target)) != 0) Close();
}

SocketClient::~SocketClient() { Close(); }

void SocketClient::Close() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
}

void SocketClient::CloseSending() { shutdown(socket_, SHUT_WR); }

void SocketClient::ShrinkReceiveBuffer() {
  const int bytes = 2048;
  setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
}

bool SocketClient::Send(const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t now = send(socket_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (now <= 0) return false;
    sent += static_cast<size_t>(now);
  }
  return true;
}

bool SocketClient::SendRequest(const std::string& method, const std::string& path,
                               const std::string& body, const std::string& headers) {
  return Send(absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: test\r\nContent-Length: ",
                           body.size(), "\r\n", headers, "\r\n", body));
}

HttpResponse SocketClient::Request(const std::string& method, const std::string& path,
                                   const std::string& body, const std::string& headers) {
  SendRequest(method, path, body, headers);
  return ReadResponse(method == "HEAD");
}

bool SocketClient::ReadSome() {
  char bytes[16 << 10];
  const ssize_t count = recv(socket_, bytes, sizeof(bytes), 0);
  if (count <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(count));
  return true;
}

bool SocketClient::ReadUntil(const std::string& text) {
  while (buffer_.find(text) == std::string::npos) {
    if (!ReadSome()) return false;
  }
  return true;
}

bool SocketClient::ReadToEnd() {
  char bytes[16 << 10];
  while (true) {
    const ssize_t count = recv(socket_, bytes, sizeof(bytes), 0);
    if (count == 0) return true;
    if (count < 0) return errno == ECONNRESET;
    buffer_.append(bytes, static_cast<size_t>(count));
  }
}

std::optional<std::string> SocketClient::TakeLine() {
  if (!ReadUntil("\r\n")) return std::nullopt;
  const size_t end = buffer_.find("\r\n");
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  return line;
}

bool SocketClient::TakeBytes(size_t count, std::string* out) {
  while (buffer_.size() < count) {
    if (!ReadSome()) return false;
  }
  out->append(buffer_, 0, count);
  buffer_.erase(0, count);
  return true;
}

HttpResponse SocketClient::ReadResponse(bool head) {
  HttpResponse response;
  const auto status_line = TakeLine();
  if (!status_line.has_value() || status_line->size() < 12) return response;
  response.status = std::atoi(status_line->c_str() + 9);
  while (true) {
    const auto line = TakeLine();
    if (!line.has_value() || line->empty()) break;
    const size_t colon = line->find(": ");
    if (colon == std::string::npos) continue;
    response.headers[absl::AsciiStrToLower(line->substr(0, colon))] = line->substr(colon + 2);
  }
  if (head) return response;
  if (response.headers.count("content-length") > 0) {
    TakeBytes(std::strtoull(response.headers["content-length"].c_str(), nullptr, 10),
              &response.body);
  } else if (response.headers["transfer-encoding"] == "chunked") {
    while (true) {
      const auto size = TakeLine();
      if (!size.has_value()) break;
      const size_t bytes = std::strtoull(size->c_str(), nullptr, 16);
      if (bytes > 0 && !TakeBytes(bytes, &response.body)) break;
      TakeLine();
      if (bytes == 0) break;
    }
  } else {
    ReadToEnd();
    response.body = std::exchange(buffer_, "");
  }
  return response;
}

HttpResponse Fetch(const std::string& address, const std::string& method, const std::string& path,
                   const std::string& body, const std::string& headers) {
  return SocketClient(address).Request(method, path, body, headers);
}

}  // namespace tessera::api
