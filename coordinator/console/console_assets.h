// The files of the console's page, as they lie in this folder, inside the binary (embed.cmake).
// Served by coordinator/api; constant, any thread.

#ifndef TESSERA_COORDINATOR_CONSOLE_CONSOLE_ASSETS_H_
#define TESSERA_COORDINATOR_CONSOLE_CONSOLE_ASSETS_H_

#include <string_view>

#include "absl/types/span.h"

namespace tessera {

struct ConsoleAsset {
  std::string_view name;  // "index.html", the page itself; it asks for the others by name
  std::string_view content_type;
  std::string_view content;
};

absl::Span<const ConsoleAsset> ConsoleAssets();

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_CONSOLE_CONSOLE_ASSETS_H_
