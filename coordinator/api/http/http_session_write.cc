// Answers of one HTTP connection: whole ones and streams, see http_session.h; and HttpCall, the
// handlers' view of them.

#include <spdlog/spdlog.h>

#include <boost/asio/write.hpp>
#include <boost/beast/http/chunk_encode.hpp>
#include <boost/beast/http/write.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/api/http/http_session.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {

namespace asio = boost::asio;
namespace http = boost::beast::http;

template <typename Response>
void HttpSession::SetCommonFields(Response* response) {
  response->version(version_);
  response->set(http::field::server, "tessera");
  response->set("x-request-id", call_->request().request_id);
  response->set("traceresponse", call_->request().trace.ToTraceparent());
  if (shared_->options.draining()) keep_alive_ = false;
}

void HttpSession::Reply(HttpReply reply) {
  if (closed_ || writing_) return;
  response_.emplace();
  response_->result(static_cast<unsigned>(reply.status));
  SetCommonFields(&*response_);
  response_->set(http::field::content_type, reply.content_type);
  for (const auto& [name, value] : reply.headers) response_->set(name, value);
  response_->body() = std::move(reply.body);
  response_->keep_alive(keep_alive_);
  response_->prepare_payload();
  if (head_) response_->body().clear();  // content-length stays what it would have been
  call_status_ = reply.status;
  writing_ = true;
  SetDeadline(shared_->options.write_deadline);
  http::async_write(socket_, *response_,
                    [self = shared_from_this()](Error error, size_t) { self->OnReplied(error); });
}

void HttpSession::OnReplied(Error error) {
  writing_ = false;
  if (closed_) return;
  if (error) return Close();
  response_.reset();
  EndCall();
  if (!keep_alive_) return Linger();
  AwaitRequest();
}

void HttpSession::BeginStream(const std::string& content_type) {
  if (closed_ || writing_) return;
  chunked_ = version_ >= 11;
  if (!chunked_) keep_alive_ = false;
  stream_head_.emplace();
  stream_head_->result(http::status::ok);
  SetCommonFields(&*stream_head_);
  stream_head_->set(http::field::content_type, content_type);
  stream_head_->set(http::field::cache_control, "no-cache");
  stream_head_->set("x-accel-buffering", "no");  // proxies: pass on at once
  stream_head_->keep_alive(keep_alive_);
  if (chunked_) stream_head_->chunked(true);
  call_status_ = 200;
  writing_ = true;
  SetDeadline(shared_->options.write_deadline);
  serializer_.emplace(*stream_head_);
  http::async_write_header(socket_, *serializer_, [self = shared_from_this()](Error error, size_t) {
    self->OnWritten(error, false);
  });
}

void HttpSession::Write(std::string bytes, bool last) {
  if (closed_) return;
  TESSERA_CHECK(!writing_) << "two writes at a time on one connection";
  outgoing_ = std::move(bytes);
  writing_ = true;
  SetDeadline(shared_->options.write_deadline);
  auto written = [self = shared_from_this(), last](Error error, size_t) {
    self->OnWritten(error, last);
  };
  if (last) {
    outgoing_ = chunked_ ? "0\r\n\r\n" : "";
    asio::async_write(socket_, asio::buffer(outgoing_), std::move(written));
  } else if (chunked_) {
    asio::async_write(socket_, http::make_chunk(asio::const_buffer(asio::buffer(outgoing_))),
                      std::move(written));
  } else {
    asio::async_write(socket_, asio::buffer(outgoing_), std::move(written));
  }
}

void HttpSession::OnWritten(Error error, bool last) {
  writing_ = false;
  if (closed_) return;
  if (error) {
    call_status_ = 499;
    return Close();
  }
  ClearDeadline();
  if (last) {
    EndCall();
    if (!keep_alive_) return Linger();
    return AwaitRequest();
  }
  if (call_ == nullptr || !call_->on_writable_) return;
  // The producer may drop itself while it runs.
  const auto producer = call_->producer_;
  const auto on_writable = call_->on_writable_;
  on_writable();
}

void HttpSession::EndCall() {
  if (call_ == nullptr) return;
  Error ignored;
  call_timer_.cancel(ignored);
  const int status = call_status_ == 0 ? 499 : call_status_;
  shared_->metrics.CountHttp(call_->route(), status);
  Audit(status);
  call_->producer_.reset();
  call_->on_writable_ = nullptr;
  call_.reset();
  call_status_ = 0;
}

void HttpSession::Audit(int status) {
  const HttpRequest& request = call_->request();
  AuditLine line;
  line.request_id = request.request_id;
  line.trace_id = request.trace.trace_id;
  line.door = "http";
  line.method = absl::StrCat(request.method, " ", call_->route());
  line.status = absl::StrCat(status);
  line.seconds = absl::ToDoubleSeconds(shared_->options.now() - request.arrival);
  line.facts = call_->facts();
  line.facts.tenant = request.caller.tenant;
  shared_->options.audit(line);
}

void HttpCall::SetRoute(std::string route, std::string path_parameter) {
  route_ = std::move(route);
  path_parameter_ = std::move(path_parameter);
}

void HttpCall::Reply(HttpReply reply) { session_.Reply(std::move(reply)); }

void HttpCall::ReplyError(const absl::Status& status) {
  const StatusRow& row = RowOf(status.code());
  if (row.internal) {
    spdlog::error("request {} {} failed: {}", request_.request_id, route_, status.ToString());
  }
  HttpReply reply;
  reply.status = HttpOf(status);
  reply.body = ErrorJson(status, request_.request_id);
  if (const auto seconds = RetrySecondsOf(status)) {
    reply.headers.emplace_back("retry-after", std::to_string(*seconds));
  }
  if (reply.status == 401) reply.headers.emplace_back("www-authenticate", "Bearer");
  Reply(std::move(reply));
}

void HttpCall::BeginStream(std::string content_type) {
  streaming_ = true;
  session_.BeginStream(content_type);
}

void HttpCall::Write(std::string bytes) { session_.Write(std::move(bytes), false); }

void HttpCall::EndStream() { session_.Write("", true); }

bool HttpCall::writable() const { return !session_.writing_ && !session_.closed_; }

void HttpCall::SetProducer(std::shared_ptr<void> producer, std::function<void()> on_writable) {
  producer_ = std::move(producer);
  on_writable_ = std::move(on_writable);
}

void HttpCall::SetTimer(absl::Duration delay, std::function<void()> work) {
  session_.call_timer_.expires_after(absl::ToChronoNanoseconds(delay));
  session_.call_timer_.async_wait(
      [session = session_.weak_from_this(), work = std::move(work)](HttpSession::Error error) {
        const auto alive = session.lock();
        if (error || alive == nullptr || alive->call_ == nullptr) return;
        if (alive->call_timer_.expiry() > std::chrono::steady_clock::now()) return;
        work();
      });
}

SerialExecutor HttpCall::executor() const {
  return session_.shared_->pool.SerialOn(session_.socket_.get_executor());
}

}  // namespace tessera::api
