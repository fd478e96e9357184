// See the header.

#include "cli/http_get.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace tessera {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr absl::Duration kConnectLimit = absl::Seconds(5);

// Runs what was started until it is over or the stream's deadline has passed.
class Exchange {
 public:
  explicit Exchange(const std::string& where) : where_(where) {}

  absl::Status Connect(const std::string& host, const std::string& port) {
    asio::ip::tcp::resolver resolver(io_);
    error_code error;
    const auto endpoints = resolver.resolve(host, port, error);
    if (error) return Failed(error);
    stream_.expires_after(absl::ToChronoNanoseconds(kConnectLimit));
    stream_.async_connect(endpoints, [this](error_code result, const auto&) { result_ = result; });
    return Run();
  }
  absl::Status Send(const http::request<http::empty_body>& request, absl::Duration limit) {
    stream_.expires_after(absl::ToChronoNanoseconds(limit));
    http::async_write(stream_, request, [this](error_code result, size_t) { result_ = result; });
    return Run();
  }
  absl::Status Read(http::response_parser<http::string_body>* parser) {
    http::async_read(stream_, buffer_, *parser,
                     [this](error_code result, size_t) { result_ = result; });
    return Run();
  }

 private:
  absl::Status Run() {
    io_.restart();
    io_.run();
    return result_ ? Failed(result_) : absl::OkStatus();
  }
  absl::Status Failed(const error_code& error) const {
    return absl::UnavailableError(absl::StrCat("no answer from ", where_, ": ", error.message()));
  }

  const std::string where_;
  asio::io_context io_;
  boost::beast::tcp_stream stream_{io_};
  boost::beast::flat_buffer buffer_;
  error_code result_;
};

}  // namespace

absl::StatusOr<HttpAnswer> HttpGet(const std::string& url, const std::string& target,
                                   const std::string& bearer_token, absl::Duration limit) {
  absl::string_view address = url;
  if (absl::StartsWith(address, "https://")) {
    return absl::InvalidArgumentError(absl::StrCat(url, ": there is no TLS here; use http://"));
  }
  absl::ConsumePrefix(&address, "http://");
  absl::ConsumeSuffix(&address, "/");
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos || colon == 0 || colon + 1 == address.size() ||
      address.find('/') != absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("`", url, "` is no address; it should be like http://127.0.0.1:8100"));
  }
  absl::string_view host = address.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");

  http::request<http::empty_body> request(http::verb::get, target, 11);
  request.set(http::field::host, std::string(address));
  request.set(http::field::connection, "close");
  if (!bearer_token.empty()) {
    request.set(http::field::authorization, absl::StrCat("Bearer ", bearer_token));
  }
  http::response_parser<http::string_body> parser;
  parser.body_limit(kHttpAnswerBytesMax);
  Exchange exchange(url);
  absl::Status status = exchange.Connect(std::string(host), std::string(address.substr(colon + 1)));
  if (status.ok()) status = exchange.Send(request, limit);
  if (status.ok()) status = exchange.Read(&parser);
  if (!status.ok()) return status;
  auto response = parser.release();
  HttpAnswer answer;
  answer.status = response.result_int();
  for (const auto& field : response) {
    answer.headers[absl::AsciiStrToLower(std::string(field.name_string()))] =
        std::string(field.value());
  }
  answer.body = std::move(response.body());
  return answer;
}

}  // namespace tessera
