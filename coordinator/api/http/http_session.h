// One HTTP connection: reads a request, hands it to the router, writes the answer, again. Requests
// of one connection are answered one after the other; bytes of the next one that come early wait in
// a bounded buffer. While an answer is made a read is always pending, so that a client that goes
// away is noticed. Everything runs on the connection's strand; every phase has a deadline.

#ifndef TESSERA_COORDINATOR_API_HTTP_HTTP_SESSION_H_
#define TESSERA_COORDINATOR_API_HTTP_HTTP_SESSION_H_

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/serializer.hpp>
#include <boost/beast/http/string_body.hpp>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/api/http/http_call.h"
#include "coordinator/api/http/http_server.h"

namespace tessera::api {

struct HttpServer::Shared {
  Shared(HttpOptions given, IoPool& io_pool, Metrics& all_metrics)
      : options(std::move(given)), pool(io_pool), metrics(all_metrics) {}

  const HttpOptions options;
  IoPool& pool;
  Metrics& metrics;
  absl::Mutex mutex = {};
  std::set<std::shared_ptr<HttpSession>> sessions ABSL_GUARDED_BY(mutex);
  bool stopped ABSL_GUARDED_BY(mutex) = false;
  // On its own strand.
  std::shared_ptr<boost::asio::ip::tcp::acceptor> acceptor;
};

class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  using Socket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, IoStrand>;

  HttpSession(std::shared_ptr<HttpServer::Shared> shared, Socket socket);

  // Any thread. `refuse`: there are too many connections, answer 503 and close.
  void Start(bool refuse);
  void Stop();    // at once when idle, else after the answer that is being written
  void CutOff();  // whatever it is doing

 private:
  friend class HttpCall;
  using Error = boost::system::error_code;
  using StringResponse = boost::beast::http::response<boost::beast::http::string_body>;
  using EmptyResponse = boost::beast::http::response<boost::beast::http::empty_body>;

  // Reading.
  void AwaitRequest();
  void Watch();
  void OnWatch(Error error, size_t bytes);
  void ReadRequest();
  void OnHeader(Error error);
  absl::Status AdmitHeader();
  void ReadBody();
  void OnBody(Error error);
  HttpRequest UnknownRequest() const;
  HttpRequest HeaderOfRequest() const;
  HttpRequest TakeRequest();
  void RefuseRequest(Error error);
  void Refuse(HttpRequest request, const absl::Status& status);
  void Dispatch(HttpRequest request);

  // Writing.
  void Reply(HttpReply reply);
  template <typename Response>
  void SetCommonFields(Response* response);
  void OnReplied(Error error);
  void BeginStream(const std::string& content_type);
  void Write(std::string bytes, bool last);
  void OnWritten(Error error, bool last);
  void EndCall();
  void Audit(int status);

  // Closing.
  void SetDeadline(absl::Duration limit);
  void ClearDeadline();
  void Linger();
  void LingerRead(size_t left);
  void Close();

  const std::shared_ptr<HttpServer::Shared> shared_;
  Socket socket_;
  boost::asio::steady_timer deadline_;
  boost::asio::steady_timer call_timer_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  Caller caller_;                   // of the request being read
  BodyLease body_lease_;            // for its body, until its handler has returned
  std::shared_ptr<HttpCall> call_;  // the request being answered
  int call_status_ = 0;             // of its answer, for metrics
  bool reading_ = false;            // a request is being read; a passed deadline is answered 408
  bool timed_out_ = false;
  bool watching_ = false;
  bool unwatching_ = false;  // the pending read was cancelled to get at what it has read before
  bool lingering_ = false;
  bool writing_ = false;
  bool keep_alive_ = true;
  bool head_ = false;     // the answer goes without its body
  bool chunked_ = false;  // HTTP/1.1 streams; 1.0 ones end with the connection
  bool closed_ = false;
  unsigned version_ = 11;
  std::optional<StringResponse> response_;
  std::optional<EmptyResponse> stream_head_;
  std::optional<boost::beast::http::response_serializer<boost::beast::http::empty_body>>
      serializer_;
  std::string outgoing_;
};

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_HTTP_HTTP_SESSION_H_
