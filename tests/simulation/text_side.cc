// See the header.

#include "tests/simulation/text_side.h"

#include <algorithm>
#include <memory>

namespace tessera::simulation {

void TextSide::Take(const RequestUpdate& update) {
  const BookedRequest* booked = book_.Find(update.request);
  if (booked == nullptr || !booked->request->sampling.has_stop_strings) return;
  Reader& reader = readers_[update.request];
  reader.busy_until = std::max(reader.busy_until, queue_.Now()) + reader.latency;
  queue_.At(reader.busy_until,
            [this, copy = std::make_shared<RequestUpdate>(update)] { Read(*copy); });
}

void TextSide::Read(const RequestUpdate& update) {
  const BookedRequest& booked = *book_.Find(update.request);
  Choice& choice = readers_[update.request].choices[update.choice];
  if (choice.answered) return;
  const std::vector<int32_t>& stop_ids = booked.request->sampling.stop_token_ids;
  for (int32_t token : update.tokens()) {
    if (std::find(stop_ids.begin(), stop_ids.end(), token) != stop_ids.end()) break;
    choice.text.push_back(token);
  }
  const size_t stop = FindStop(choice.text, booked.stops);
  if (stop < choice.text.size()) {
    choice.answered = true;
    post_(TextStop{update.request, update.choice, static_cast<uint32_t>(stop)});
  } else if (update.ended) {
    choice.answered = true;
    post_(TextEnd{update.request, update.choice});
  }
}

}  // namespace tessera::simulation
