// The last words of a rank that gives up a gloo group: why, and on account of whom. Without them
// its peers would only see its connections close and blame it for the death of another. Every rank
// has a receive for them posted from the start, so they are delivered without its help.

#ifndef TESSERA_WORKER_COMM_GLOO_FAREWELL_H_
#define TESSERA_WORKER_COMM_GLOO_FAREWELL_H_

#include <gloo/transport/context.h>
#include <gloo/transport/unbound_buffer.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "worker/comm/tree_sum.h"

namespace tessera {

class GlooFarewell {
 public:
  enum Reason : int32_t { kLost = 1, kLate = 2, kAborted = 3 };
  struct Words {
    int32_t reason = 0;
    int32_t culprit = 0;  // rank
  };

  // Posts the receives; throws what Gloo throws when a peer has gone already.
  GlooFarewell(gloo::transport::Context& context, int rank, int size);

  // Any thread, once. Best effort and bounded: a peer that cannot take the words goes without.
  void Say(const Words& words);

  // What `peer` said. Only for a peer whose connection has failed: then the answer is there or
  // never comes.
  std::optional<Words> From(int peer);

 private:
  gloo::transport::Context& context_;
  const int rank_;
  const int size_;
  std::array<Words, kCommRanksMax> received_ = {};
  std::array<std::unique_ptr<gloo::transport::UnboundBuffer>, kCommRanksMax> receives_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_COMM_GLOO_FAREWELL_H_
