// OpenAI response objects as text, for chat and plain completions, whole and as stream chunks. Any
// thread.

#ifndef TESSERA_COORDINATOR_API_HTTP_OPENAI_RESPONSE_H_
#define TESSERA_COORDINATOR_API_HTTP_OPENAI_RESPONSE_H_

#include <cstdint>
#include <string>

#include "coordinator/api/generation.h"

namespace tessera::api {

class OpenAiAnswer {
 public:
  // `usage_in_chunks`: stream_options.include_usage.
  OpenAiAnswer(bool chat, std::string id, std::string model, int64_t created_unix_seconds,
               bool usage_in_chunks)
      : chat_(chat),
        id_(std::move(id)),
        model_(std::move(model)),
        created_(created_unix_seconds),
        usage_in_chunks_(usage_in_chunks) {}

  // The whole answer, a JSON object.
  std::string Whole(const std::string& text, const Generation::Delta& end) const;

  // Server-sent events. Opening: the role chunk of a chat, nothing otherwise.
  std::string Opening() const;
  std::string Text(const std::string& text) const;
  // Finish reason, usage when asked for, [DONE].
  std::string Closing(const Generation::Delta& end) const;

 private:
  const bool chat_;
  const std::string id_;
  const std::string model_;
  const int64_t created_;
  const bool usage_in_chunks_;
};

// One server-sent event.
std::string SseEvent(const std::string& data);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_HTTP_OPENAI_RESPONSE_H_
