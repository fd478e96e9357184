// A synchronous bidirectional stream: the reader blocks in Read, writers take turns, and cancelling
// the context is what ends every wait.

#include "worker/link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/probe.h"

namespace tessera {

using cluster::v1::CoordinatorMessage;
using cluster::v1::WorkerMessage;

std::shared_ptr<grpc::Channel> NewCoordinatorChannel(const std::string& address) {
  grpc::ChannelArguments args;
  // A dead node or path is noticed after three seconds, also while nothing is sent.
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 1000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2000);
  args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 500);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  args.SetMaxReceiveMessageSize(kMessageBytesMax);
  args.SetMaxSendMessageSize(kMessageBytesMax);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
}

Link::Link(std::string address, std::shared_ptr<grpc::Channel> channel, Inbox& inbox,
           const RankProgress& progress)
    : address_(std::move(address)),
      channel_(std::move(channel)),
      stub_(cluster::v1::Cluster::NewStub(channel_)),
      inbox_(inbox),
      progress_(progress) {}

absl::StatusOr<std::unique_ptr<Link>> Link::Join(const std::string& address,
                                                 std::shared_ptr<grpc::Channel> channel,
                                                 const cluster::v1::Hello& hello, Inbox& inbox,
                                                 const RankProgress& progress) {
  std::unique_ptr<Link> link(new Link(address, std::move(channel), inbox, progress));
  TESSERA_RETURN_IF_ERROR(link->SayHello(hello));
  if (absl::Status stale = inbox.BeginJoin(link->welcome_.term()); !stale.ok()) {
    link->context_.TryCancel();
    link->stream_->Finish();
    return stale;
  }
  // From here on the reader owns the end of the stream.
  link->reader_ = std::thread([raw = link.get()] { raw->ReadLoop(); });
  link->heartbeat_ = std::thread([raw = link.get()] { raw->HeartbeatLoop(); });
  return link;
}

absl::Status Link::SayHello(const cluster::v1::Hello& hello) {
  stream_ = stub_->Join(&context_);
  WorkerMessage message;
  *message.mutable_hello() = hello;
  // Neither a coordinator that does not answer nor a signal may leave this waiting.
  absl::Mutex mutex;
  bool answered = false;
  bool late = false;
  std::thread watchdog([&] {
    absl::MutexLock lock(&mutex);
    late = !mutex.AwaitWithTimeout(absl::Condition(&answered), kWelcomeDeadline);
    if (late) context_.TryCancel();
  });
  CoordinatorMessage first;
  bool read = false;
  {
    const Inbox::WakeScope scope(inbox_, [this] { context_.TryCancel(); });
    read = stream_->Write(message) && stream_->Read(&first);
  }
  {
    absl::MutexLock lock(&mutex);
    answered = true;
  }
  watchdog.join();
  if (read && first.has_welcome()) {
    welcome_ = first.welcome();
    return absl::OkStatus();
  }
  if (read) context_.TryCancel();
  absl::Status status = EndStatus();
  if (late) {
    status = absl::UnavailableError(absl::StrCat("the coordinator at ", address_,
                                                 " took the connection but did not answer within ",
                                                 absl::FormatDuration(kWelcomeDeadline)));
  }
  if (read) status = absl::InternalError("the coordinator's first message was not Welcome");
  return status;
}

absl::Status Link::EndStatus() {
  const grpc::Status status = stream_->Finish();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (status.ok()) {
    return absl::UnavailableError(absl::StrCat("coordinator ", address_, " ended the connection"));
  }
  if (code == absl::StatusCode::kUnavailable) {
    return absl::UnavailableError(absl::StrCat(
        "cannot reach the coordinator at ", address_, ": ", status.error_message(),
        "; is it running, is --coordinator its --listen address, does a firewall stand between?"));
  }
  return absl::Status(code, absl::StrCat("coordinator ", address_, ": ", status.error_message()));
}

void Link::ReadLoop() {
  CoordinatorMessage message;
  absl::Status refused;
  while (refused.ok() && stream_->Read(&message)) refused = inbox_.Post(message);
  if (!refused.ok()) context_.TryCancel();
  {
    absl::MutexLock lock(&write_mutex_);
    write_closed_ = true;
  }
  absl::Status status = EndStatus();
  if (!refused.ok()) status = refused;
  bool closing = false;
  {
    absl::MutexLock lock(&state_mutex_);
    ended_ = true;
    closing = closing_;
  }
  if (!closing) inbox_.PostLinkLost(status);
}

void Link::HeartbeatLoop() {
  const absl::Duration interval = std::clamp(absl::Milliseconds(welcome_.heartbeat_interval_ms()),
                                             kHeartbeatIntervalMin, kHeartbeatIntervalMax);
  while (true) {
    {
      absl::MutexLock lock(&state_mutex_);
      const auto over = [this]()
                            ABSL_SHARED_LOCKS_REQUIRED(state_mutex_) { return ended_ || closing_; };
      if (state_mutex_.AwaitWithTimeout(absl::Condition(&over), interval)) return;
    }
    WorkerMessage message;
    message.mutable_heartbeat()->set_epoch(progress_.epoch.load());
    message.mutable_heartbeat()->set_steps_finished(progress_.steps_finished.load());
    message.mutable_heartbeat()->set_resident_bytes(ProcessResidentBytes());
    if (!Send(message)) return;
  }
}

bool Link::Send(const WorkerMessage& message) {
  absl::MutexLock lock(&write_mutex_);
  if (write_closed_) return false;
  if (stream_->Write(message)) return true;
  write_closed_ = true;
  return false;
}

void Link::SendAndClose(const WorkerMessage& message, absl::Duration patience) {
  {
    absl::MutexLock lock(&state_mutex_);
    closing_ = true;
  }
  {
    absl::MutexLock lock(&write_mutex_);
    if (!write_closed_ && stream_->Write(message)) stream_->WritesDone();
    write_closed_ = true;
  }
  absl::MutexLock lock(&state_mutex_);
  state_mutex_.AwaitWithTimeout(absl::Condition(&ended_), patience);
}

Link::~Link() {
  {
    absl::MutexLock lock(&state_mutex_);
    closing_ = true;
  }
  context_.TryCancel();
  if (heartbeat_.joinable()) heartbeat_.join();
  if (reader_.joinable()) reader_.join();
}

}  // namespace tessera
