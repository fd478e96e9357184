// A blocking HTTP client made of a socket and as little else as possible: tests see the bytes.
// Every read has a deadline; what fails is told by the test.

#ifndef TESSERA_TESTS_COORDINATOR_API_SOCKET_CLIENT_H_
#define TESSERA_TESTS_COORDINATOR_API_SOCKET_CLIENT_H_

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace tessera::api {

struct HttpResponse {
  int status = 0;                              // 0: no answer came
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // chunks joined

  nlohmann::json json() const { return nlohmann::json::parse(body, nullptr, false); }
  // data: lines of server-sent events.
  std::vector<std::string> events() const;
};

class SocketClient {
 public:
  explicit SocketClient(const std::string& address);  // "127.0.0.1:1234"
  ~SocketClient();
  SocketClient(const SocketClient&) = delete;
  SocketClient& operator=(const SocketClient&) = delete;

  bool connected() const { return socket_ >= 0; }
  bool Send(const std::string& bytes);
  // Small receive buffer, for a client that reads slowly.
  void ShrinkReceiveBuffer();
  void Close();
  void CloseSending();

  // One request with a Content-Length; then ReadResponse.
  bool SendRequest(const std::string& method, const std::string& path, const std::string& body = "",
                   const std::string& headers = "");
  HttpResponse ReadResponse(bool head = false);
  HttpResponse Request(const std::string& method, const std::string& path,
                       const std::string& body = "", const std::string& headers = "");
  // Reads until `text` has come (true) or the deadline has passed.
  bool ReadUntil(const std::string& text);
  // The other side closed; false when it has not within the deadline.
  bool ReadToEnd();
  const std::string& buffered() const { return buffer_; }

 private:
  bool ReadSome();
  std::optional<std::string> TakeLine();
  bool TakeBytes(size_t count, std::string* out);

  int socket_ = -1;
  std::string buffer_;  // received, not taken
};

// One request on a connection of its own.
HttpResponse Fetch(const std::string& address, const std::string& method, const std::string& path,
                   const std::string& body = "", const std::string& headers = "");

}  // namespace tessera::api

#endif  // TESSERA_TESTS_COORDINATOR_API_SOCKET_CLIENT_H_
