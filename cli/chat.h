// `tessera chat`: a conversation in the terminal over gRPC, with history and streaming.

#ifndef TESSERA_CLI_CHAT_H_
#define TESSERA_CLI_CHAT_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

namespace tessera {

struct ChatOptions {
  std::string address = "127.0.0.1:50051";
  std::string model;
  std::string api_key;  // "" where the server asks for none
  std::string system;
  std::optional<std::string> once;  // one question, then exit
  std::optional<float> temperature;
  std::optional<uint32_t> max_tokens;
  std::optional<uint64_t> seed;
};

CLI::App* AddChatCommand(CLI::App& app, ChatOptions& options);
int RunChat(const ChatOptions& options);

}  // namespace tessera

#endif  // TESSERA_CLI_CHAT_H_
