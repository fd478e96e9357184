// See the header. One thread; Ctrl-C while an answer comes cancels that answer, otherwise it ends
// the chat.

#include "cli/chat.h"

#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "tessera/v1/tessera.grpc.pb.h"

namespace tessera {
namespace {

constexpr int kConnectSecondsMax = 5;

// Cancels the answer in flight when SIGINT comes. While this lives the signal is blocked in every
// thread and taken by one of our own, so nothing happens in a signal handler.
class InterruptWatch {
 public:
  explicit InterruptWatch(grpc::ClientContext& context) : context_(context) {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals_, &previous_);
    thread_ = std::jthread([this](const std::stop_token& stop) {
      const timespec slice = {0, 50'000'000};
      while (!stop.stop_requested()) {
        if (sigtimedwait(&signals_, nullptr, &slice) == SIGINT) context_.TryCancel();
      }
    });
  }
  ~InterruptWatch() {
    thread_.request_stop();
    thread_.join();
    pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
  }

 private:
  grpc::ClientContext& context_;
  sigset_t signals_;
  sigset_t previous_;
  std::jthread thread_;
};

v1::ChatRequest NewConversation(const ChatOptions& options) {
  v1::ChatRequest request;
  request.set_model(options.model);
  if (!options.system.empty()) {
    v1::ChatMessage* message = request.add_messages();
    message->set_role("system");
    message->set_content(options.system);
  }
  v1::SamplingParams* sampling = request.mutable_sampling();
  if (options.temperature) sampling->set_temperature(*options.temperature);
  if (options.max_tokens) sampling->set_max_tokens(*options.max_tokens);
  if (options.seed) sampling->set_seed(*options.seed);
  return request;
}

void PrintStatistics(const v1::Usage& usage, double first_seconds, double total_seconds) {
  const double decode_seconds = total_seconds - first_seconds;
  const double rate = usage.completion_tokens() > 1 && decode_seconds > 0
                          ? (usage.completion_tokens() - 1) / decode_seconds
                          : 0;
  std::fprintf(stderr,
               "[%u prompt (%u cached) + %u output tokens, first after %.0f ms, %.1f tok/s]\n",
               usage.prompt_tokens(), usage.cached_tokens(), usage.completion_tokens(),
               first_seconds * 1e3, rate);
}

// Streams one answer to stdout and appends it to the conversation.
grpc::Status Answer(v1::Tessera::Stub& stub, const std::string& api_key, v1::ChatRequest& request) {
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&start] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  grpc::ClientContext context;
  context.set_wait_for_ready(false);
  if (!api_key.empty()) context.AddMetadata("authorization", "Bearer " + api_key);
  const InterruptWatch interrupts(context);
  const auto stream = stub.Chat(&context, request);
  v1::GenerateResponse response;
  v1::Usage usage;
  std::string text;
  double first_seconds = 0;
  while (stream->Read(&response)) {
    if (first_seconds == 0 && response.token_ids_size() > 0) first_seconds = elapsed();
    text += response.text();
    std::cout << response.text() << std::flush;
    if (response.has_usage()) usage = response.usage();
  }
  std::cout << std::endl;
  const grpc::Status status = stream->Finish();
  if (status.ok()) PrintStatistics(usage, first_seconds, elapsed());
  if (!text.empty()) {
    v1::ChatMessage* message = request.add_messages();
    message->set_role("assistant");
    message->set_content(text);
  }
  return status;
}

void PrintError(const grpc::Status& status) {
  // gRPC gives no text when the request itself cannot be encoded, which only strings that are not
  // UTF-8 do.
  const std::string& text = status.error_message();
  std::cerr << "error: " << (text.empty() ? "the text is not valid UTF-8" : text) << "\n";
}

void Ask(v1::ChatRequest& request, const std::string& question) {
  v1::ChatMessage* message = request.add_messages();
  message->set_role("user");
  message->set_content(question);
}

int Converse(const ChatOptions& options, v1::Tessera::Stub& stub) {
  const bool terminal = isatty(STDIN_FILENO) == 1;
  if (terminal) std::cerr << "/reset starts anew, /exit or Ctrl-D ends.\n";
  v1::ChatRequest request = NewConversation(options);
  std::string line;
  while (true) {
    if (terminal) std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line) || line == "/exit") return 0;
    if (line.empty()) continue;
    if (line == "/reset") {
      request = NewConversation(options);
      continue;
    }
    Ask(request, line);
    const grpc::Status status = Answer(stub, options.api_key, request);
    if (status.error_code() == grpc::StatusCode::CANCELLED) continue;
    if (!status.ok()) {
      PrintError(status);
      if (!terminal) return 1;
      if (request.messages().rbegin()->role() == "user") request.mutable_messages()->RemoveLast();
    }
  }
}

}  // namespace

CLI::App* AddChatCommand(CLI::App& app, ChatOptions& options) {
  CLI::App* command = app.add_subcommand("chat", "Talk to a served model in the terminal");
  command->add_option("--address", options.address, "gRPC address of the coordinator")
      ->capture_default_str();
  command->add_option("--model", options.model, "Model name [the only one served]");
  command->add_option("--api-key", options.api_key, "API key, where the server asks for one")
      ->envname("TESSERA_API_KEY");
  command->add_option("--system", options.system, "System message");
  command->add_option("--once", options.once, "Ask this one question, print the answer and exit");
  command->add_option("--temperature", options.temperature, "0 is greedy [the model's own]");
  command->add_option("--max-tokens", options.max_tokens, "Most tokens of one answer");
  command->add_option("--seed", options.seed, "Seed of the draw [the server's choice]");
  return command;
}

int RunChat(const ChatOptions& options) {
  // The threads that gRPC starts inherit the mask, so that SIGINT comes to this thread alone: it
  // ends the program, except while an answer streams.
  sigset_t interrupt;
  sigset_t previous;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  pthread_sigmask(SIG_BLOCK, &interrupt, &previous);
  const auto channel = grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials());
  if (!channel->WaitForConnected(std::chrono::system_clock::now() +
                                 std::chrono::seconds(kConnectSecondsMax))) {
    std::cerr << "error: no gRPC server answers at " << options.address
              << "; is `tessera serve` running? Its gRPC address (not HTTP) goes to --address\n";
    return 1;
  }
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
  const auto stub = v1::Tessera::NewStub(channel);
  if (!options.once.has_value()) return Converse(options, *stub);
  v1::ChatRequest request = NewConversation(options);
  Ask(request, *options.once);
  const grpc::Status status = Answer(*stub, options.api_key, request);
  if (!status.ok()) PrintError(status);
  return status.ok() ? 0 : 1;
}

}  // namespace tessera
