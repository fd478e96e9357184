// Reading and closing of one HTTP connection, see http_session.h; writing is in
// http_session_write.cc.

#include "coordinator/api/http/http_session.h"

#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/read.hpp>
#include <exception>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/api/http/percent.h"
#include "coordinator/api/request_id.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

constexpr size_t kReadBytes = 8 << 10;
constexpr absl::Duration kLingerDeadline = absl::Seconds(2);

template <typename Message>
std::string PathOf(const Message& message) {
  const std::string target(message.target());
  return PercentDecode(target.substr(0, target.find_first_of("?#")));
}

template <typename Message>
std::string QueryOf(const Message& message) {
  const std::string target(message.target());
  const std::string whole = target.substr(0, target.find('#'));
  const size_t mark = whole.find('?');
  return mark == std::string::npos ? std::string() : whole.substr(mark + 1);
}

}  // namespace

HttpSession::HttpSession(std::shared_ptr<HttpServer::Shared> shared, Socket socket)
    : shared_(std::move(shared)),
      socket_(std::move(socket)),
      deadline_(socket_.get_executor()),
      call_timer_(socket_.get_executor()),
      buffer_(kHttpHeaderBytesMax + kHttpPipelineBytesMax),
      body_lease_(shared_->options.bodies) {}

void HttpSession::Start(bool refuse) {
  asio::dispatch(socket_.get_executor(), [self = shared_from_this(), refuse] {
    if (!refuse) return self->AwaitRequest();
    self->keep_alive_ = false;
    self->call_ = std::make_shared<HttpCall>(*self, self->UnknownRequest());
    self->call_->ReplyError(
        absl::UnavailableError(absl::StrCat("the server has its most connections open already, ",
                                            self->shared_->options.connections_max)));
  });
}

void HttpSession::Stop() {
  asio::dispatch(socket_.get_executor(), [self = shared_from_this()] {
    // An answer on its way out may arrive whole; the pool's own limit ends the wait for it.
    if (self->call_ == nullptr && !self->lingering_) return self->Close();
    self->keep_alive_ = false;
  });
}

void HttpSession::CutOff() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->Close(); });
}

void HttpSession::AwaitRequest() {
  if (closed_) return;
  if (buffer_.size() > 0 && !watching_) return ReadRequest();
  if (buffer_.size() > 0) {
    // The next request, or its beginning, is here already, behind a read that waits for more.
    unwatching_ = true;
    Error ignored;
    socket_.cancel(ignored);
    return;
  }
  SetDeadline(shared_->options.idle_deadline);
  Watch();
}

void HttpSession::Watch() {
  if (watching_ || closed_ || buffer_.size() >= kHttpPipelineBytesMax) return;
  watching_ = true;
  socket_.async_read_some(
      buffer_.prepare(kReadBytes),
      [self = shared_from_this()](Error error, size_t bytes) { self->OnWatch(error, bytes); });
}

void HttpSession::OnWatch(Error error, size_t bytes) {
  watching_ = false;
  if (closed_) return;
  if (lingering_) return error ? Close() : LingerRead(kHttpLingerBytesMax);
  const bool cancelled =
      std::exchange(unwatching_, false) && error == asio::error::operation_aborted;
  if (error == asio::error::eof && writing_ && call_ != nullptr && !call_->streaming()) {
    keep_alive_ = false;  // the client has closed its half; the answer is on its way out already
    return;
  }
  if (error && !cancelled) {
    if (call_ != nullptr) call_status_ = 499;  // gone before its answer was complete
    return Close();
  }
  buffer_.commit(bytes);
  if (call_ != nullptr) return Watch();
  ReadRequest();
}

void HttpSession::ReadRequest() {
  parser_.emplace();
  parser_->header_limit(kHttpHeaderBytesMax);
  parser_->body_limit(kHttpBodyBytesMax);
  reading_ = true;
  timed_out_ = false;
  SetDeadline(shared_->options.read_deadline);
  http::async_read_header(
      socket_, buffer_, *parser_,
      [self = shared_from_this()](Error error, size_t) { self->OnHeader(error); });
}

void HttpSession::OnHeader(Error error) {
  if (closed_) return;
  if (error) return RefuseRequest(error);
  version_ = parser_->get().version();
  head_ = parser_->get().method() == http::verb::head;
  const absl::Status admitted = AdmitHeader();
  if (!admitted.ok()) return Refuse(HeaderOfRequest(), admitted);
  parser_->eager(true);
  const auto expect = parser_->get()[http::field::expect];
  if (!absl::EqualsIgnoreCase({expect.data(), expect.size()}, "100-continue")) return ReadBody();
  outgoing_ = "HTTP/1.1 100 Continue\r\n\r\n";
  asio::async_write(socket_, asio::buffer(outgoing_),
                    [self = shared_from_this()](Error write_error, size_t) {
                      if (write_error) return self->Close();
                      self->ReadBody();
                    });
}

// What can be said before the body is read: whether the caller may call, and whether there is room.
absl::Status HttpSession::AdmitHeader() {
  const auto authorization = parser_->get()[http::field::authorization];
  auto caller = shared_->options.identify(PathOf(parser_->get()),
                                          {authorization.data(), authorization.size()});
  if (!caller.ok()) return caller.status();
  caller_ = *std::move(caller);
  const auto announced = parser_->content_length();
  return announced ? body_lease_.GrowTo(static_cast<size_t>(*announced)) : absl::OkStatus();
}

void HttpSession::ReadBody() {
  if (closed_) return;
  if (!parser_->is_done()) {
    http::async_read_some(
        socket_, buffer_, *parser_,
        [self = shared_from_this()](Error error, size_t) { self->OnBody(error); });
    return;
  }
  reading_ = false;
  ClearDeadline();
  Dispatch(TakeRequest());
}

void HttpSession::OnBody(Error error) {
  if (closed_) return;
  if (error) return RefuseRequest(error);
  // A body of unknown length takes its share as it comes.
  const absl::Status taken = body_lease_.GrowTo(parser_->get().body().size());
  if (!taken.ok()) return Refuse(HeaderOfRequest(), taken);
  ReadBody();
}

HttpRequest HttpSession::HeaderOfRequest() const {
  const auto& message = parser_->get();
  HttpRequest request;
  request.arrival = shared_->options.now();
  request.method = std::string(message.method_string());
  request.path = PathOf(message);
  request.query = QueryOf(message);
  const auto id = message["x-request-id"];
  request.request_id = IsUsableRequestId({id.data(), id.size()})
                           ? std::string(id)
                           : shared_->options.make_request_id();
  const auto trace = message["traceparent"];
  request.trace = shared_->options.continue_trace({trace.data(), trace.size()});
  const auto optional = [&message](const char* name) -> std::optional<std::string> {
    const auto found = message.find(name);
    if (found == message.end()) return std::nullopt;
    return std::string(found->value());
  };
  request.timeout_ms = optional("x-request-timeout-ms");
  request.timeout_seconds = optional("x-request-timeout");
  return request;
}

HttpRequest HttpSession::TakeRequest() {
  HttpRequest request = HeaderOfRequest();
  request.caller = std::move(caller_);
  auto message = parser_->release();
  parser_.reset();
  keep_alive_ = message.keep_alive();
  request.body = std::move(message.body());
  return request;
}

// A request that could not be read: what can still be said is said, then the connection ends, as
// nothing tells where the next request would begin.
void HttpSession::RefuseRequest(Error error) {
  absl::Status status;
  if (error == http::error::body_limit) {
    status = WithHttp(
        WithCode(absl::InvalidArgumentError(absl::StrCat("the request body is over the limit of ",
                                                         kHttpBodyBytesMax, " bytes")),
                 "request_too_large"),
        413);
  } else if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    status = WithHttp(
        WithCode(absl::InvalidArgumentError(absl::StrCat(
                     "the request's header is over the limit of ", kHttpHeaderBytesMax, " bytes")),
                 "header_too_large"),
        431);
  } else if (timed_out_) {
    status = WithHttp(WithCode(absl::InvalidArgumentError(absl::StrCat(
                                   "the request did not arrive whole within ",
                                   absl::FormatDuration(shared_->options.read_deadline))),
                               "request_timeout"),
                      408);
  } else if (error == http::error::end_of_stream || error == http::error::partial_message ||
             error.category() != http::make_error_code(http::error::end_of_stream).category()) {
    return Close();  // the client went away, or the network did
  } else {
    status = WithCode(absl::InvalidArgumentError(
                          absl::StrCat("this is not an HTTP/1.1 request: ", error.message())),
                      "invalid_http");
  }
  Refuse(UnknownRequest(), status);
}

void HttpSession::Refuse(HttpRequest request, const absl::Status& status) {
  reading_ = false;
  keep_alive_ = false;
  parser_.reset();  // with what it has of the body
  body_lease_.Release();
  call_ = std::make_shared<HttpCall>(*this, std::move(request));
  call_->ReplyError(status);
}

// A request of which nothing is known.
HttpRequest HttpSession::UnknownRequest() const {
  HttpRequest request;
  request.request_id = shared_->options.make_request_id();
  request.trace = shared_->options.continue_trace("");
  request.arrival = shared_->options.now();
  return request;
}

void HttpSession::Dispatch(HttpRequest request) {
  call_ = std::make_shared<HttpCall>(*this, std::move(request));
  Watch();
  // The call may end while its handler runs.
  const std::shared_ptr<HttpCall> call = call_;
  // Nothing of ours throws; a library that runs out of memory on one request must not end the
  // process.
  try {
    shared_->options.router(*call);
  } catch (const std::exception& exception) {
    if (call->streaming() || writing_) {
      Close();
    } else {
      call->ReplyError(absl::InternalError(exception.what()));
    }
  }
  call->request_.body = std::string();
  body_lease_.Release();
}

void HttpSession::SetDeadline(absl::Duration limit) {
  deadline_.expires_after(absl::ToChronoNanoseconds(limit));
  deadline_.async_wait([self = shared_from_this()](Error error) {
    if (error || self->closed_) return;
    // A timer that fired just before it was set again has nothing to say.
    if (self->deadline_.expiry() > std::chrono::steady_clock::now()) return;
    if (!self->reading_) return self->Close();
    self->timed_out_ = true;
    self->socket_.cancel(error);
  });
}

void HttpSession::ClearDeadline() {
  deadline_.expires_at(std::chrono::steady_clock::time_point::max());
}

// Ends the connection without losing the answer: bytes that the client still sends are read and
// dropped, else the operating system answers them with a reset that can overtake the answer.
void HttpSession::Linger() {
  lingering_ = true;
  Error ignored;
  socket_.shutdown(boost::asio::ip::tcp::socket::shutdown_send, ignored);
  SetDeadline(kLingerDeadline);
  buffer_.clear();
  if (!watching_) LingerRead(kHttpLingerBytesMax);
}

void HttpSession::LingerRead(size_t left) {
  if (closed_) return;
  watching_ = true;
  socket_.async_read_some(buffer_.prepare(kReadBytes),
                          [self = shared_from_this(), left](Error error, size_t bytes) {
                            self->watching_ = false;
                            if (error || bytes >= left) return self->Close();
                            self->LingerRead(left - bytes);
                          });
}

void HttpSession::Close() {
  if (closed_) return;
  closed_ = true;
  EndCall();
  Error ignored;
  deadline_.cancel(ignored);
  socket_.shutdown(boost::asio::ip::tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
  absl::MutexLock lock(&shared_->mutex);
  if (shared_->sessions.erase(shared_from_this()) > 0) {
    shared_->metrics.http_connections().Decrement();
  }
}

}  // namespace tessera::api
