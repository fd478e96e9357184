// Two loops: over links, and over the events of one link.

#include "worker/service.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/version.h"
#include "worker/assignment.h"
#include "worker/probe.h"

namespace tessera {
namespace {

using cluster::v1::WorkerMessage;

constexpr absl::Duration kBackoffMin = absl::Milliseconds(100);
constexpr absl::Duration kBackoffMax = absl::Seconds(2);
// How long the last word may take to reach the coordinator.
constexpr absl::Duration kFarewell = absl::Milliseconds(700);
constexpr absl::Duration kIdleWait = absl::Minutes(10);

// Whether dialling again can help.
bool WorthRetrying(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return true;
    default:
      return false;
  }
}

WorkerMessage FailedMessage(uint64_t epoch, const absl::Status& status) {
  WorkerMessage message;
  message.mutable_failed()->set_epoch(epoch);
  message.mutable_failed()->set_code(static_cast<int32_t>(status.code()));
  message.mutable_failed()->set_message(std::string(status.message()));
  return message;
}

WorkerMessage LeavingMessage(const std::string& reason) {
  WorkerMessage message;
  message.mutable_leaving()->set_reason(reason);
  return message;
}

}  // namespace

Service::Service(ServiceOptions options, Device& device, const Clock& clock, EventLog& log)
    : options_(std::move(options)),
      clock_(clock),
      log_(log),
      device_(device),
      store_(options_.model_roots, device.ops(), clock) {}

cluster::v1::Hello Service::MakeHello() const {
  const MachineFacts facts = ProbeMachine();
  cluster::v1::Hello hello;
  hello.set_protocol_version(cluster::v1::PROTOCOL_VERSION_CURRENT);
  hello.set_build(kVersion);
  hello.set_worker_name(options_.worker_name);
  hello.set_numerics(device_.numerics());
  cluster::v1::Hardware* hardware = hello.mutable_hardware();
  hardware->set_device(device_.kind());
  hardware->set_host_id(facts.host_id);
  hardware->set_cores(device_.num_threads());
  if (device_.gpu().has_value()) {
    hardware->set_device_id(device_.gpu()->bus_id);
    hardware->set_device_name(device_.gpu()->name);
    hardware->set_memory_bytes(device_.gpu()->memory_bytes);
    hardware->set_memory_free_bytes(device_.gpu()->memory_free_bytes);
    return hello;
  }
  hardware->set_device_name(facts.cpu.name);
  hardware->set_memory_bytes(facts.memory.Usable());
  // What this process holds already (kept weights) can be given back to the next assignment.
  hardware->set_memory_free_bytes(
      std::min(facts.memory.UsableNow() + ProcessResidentBytes(), facts.memory.Usable()));
  return hello;
}

absl::StatusOr<std::unique_ptr<Link>> Service::Dial() {
  const std::shared_ptr<grpc::Channel> channel =
      NewCoordinatorChannel(options_.coordinator_address);
  const absl::Time begin = clock_.Now();
  absl::Duration backoff = kBackoffMin;
  while (true) {
    absl::StatusOr<std::unique_ptr<Link>> link =
        Link::Join(options_.coordinator_address, channel, MakeHello(), inbox_, progress_);
    if (link.ok()) return link;
    if (inbox_.stop_requested()) return absl::CancelledError("stopped while dialling");
    if (!WorthRetrying(link.status())) return link.status();
    const absl::Duration tried = clock_.Now() - begin;
    if (tried + backoff > options_.reconnect) {
      return absl::Status(
          link.status().code(),
          absl::StrCat(link.status().message(), " (gave up after ",
                       absl::FormatDuration(absl::Trunc(tried, absl::Milliseconds(100))),
                       ", see --reconnect-seconds)"));
    }
    if (backoff == kBackoffMin) log_.Warn(link.status().message(), "; trying again");
    inbox_.SleepUnlessInterrupted(clock_.Now() + backoff);
    backoff = std::min(backoff * 1.6, kBackoffMax);
  }
}

absl::Status Service::Run() {
  while (true) {
    absl::StatusOr<std::unique_ptr<Link>> link = Dial();
    if (!link.ok()) {
      // Nobody to say goodbye to.
      return inbox_.stop_requested() ? absl::OkStatus() : link.status();
    }
    log_.Info("joined ", options_.coordinator_address, " as worker ",
              (*link)->welcome().worker_id(), ", term ", (*link)->welcome().term());
    TESSERA_ASSIGN_OR_RETURN(const Outcome outcome, Serve(**link));
    if (outcome == Outcome::kOver) return absl::OkStatus();
    // A coordinator that hangs up at once must not be dialled in a tight loop.
    inbox_.SleepUnlessInterrupted(clock_.Now() + kBackoffMin);
  }
}

absl::StatusOr<Service::Outcome> Service::Serve(Link& link) {
  const RankParts parts = {.device = device_,
                           .clock = clock_,
                           .store = store_,
                           .inbox = inbox_,
                           .progress = progress_,
                           .log = log_,
                           .coordinator_address = options_.coordinator_address};
  while (true) {
    const std::optional<RankEvent> event = inbox_.Take(clock_.Now() + kIdleWait);
    if (!event.has_value()) continue;
    if (const auto* assign = std::get_if<cluster::v1::Assign>(&*event)) {
      const absl::Status status = Assignment(parts, link, *assign).Run();
      if (status.ok()) continue;
      link.SendAndClose(FailedMessage(assign->epoch(), status), kFarewell);
      return status;
    }
    if (const auto* unassign = std::get_if<cluster::v1::Unassign>(&*event)) {
      log_.Info("unassigned from epoch ", unassign->epoch(), ": ", unassign->reason());
    } else if (const auto* lost = std::get_if<LinkLost>(&*event)) {
      log_.Warn("link lost: ", lost->status.message());
      // Weights stay; the coordinator, or its successor, may want them again.
      return Outcome::kLinkLost;
    } else if (const auto* shutdown = std::get_if<cluster::v1::Shutdown>(&*event)) {
      log_.Info("shut down by the coordinator: ", shutdown->reason());
      link.SendAndClose(LeavingMessage("shut down"), kFarewell);
      return Outcome::kOver;
    } else if (const auto* stop = std::get_if<StopRequested>(&*event)) {
      log_.Info("leaving: ", stop->reason);
      link.SendAndClose(LeavingMessage(stop->reason), kFarewell);
      return Outcome::kOver;
    }
  }
}

}  // namespace tessera
