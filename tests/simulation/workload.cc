// See the header.

#include "tests/simulation/workload.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/simulation/symbolic_model.h"

namespace tessera::simulation {

using sim::Random;

Workload::Workload(const Scenario& scenario, sim::Simulation& simulation, RequestBook& book,
                   TextSide& text, Random random)
    : scenario_(scenario), simulation_(simulation), book_(book), text_(text), random_(random) {
  for (int i = 0; i < scenario.workload.templates; ++i) {
    std::vector<int32_t>& tokens = templates_.emplace_back();
    for (int64_t n = random_.Between(4, 64); n > 0; --n) tokens.push_back(DrawTokenId());
  }
}

void Workload::Start() {
  sim::EventQueue& queue = simulation_.queue();
  const WorkloadShape& shape = scenario_.workload;
  // Many arrivals fall together, as in life.
  absl::Duration at;
  for (int i = 0; i < shape.requests; ++i) {
    if (random_.Chance(0.6)) at = random_.Between(absl::ZeroDuration(), shape.span);
    queue.After(at, [this] { SendOne(); });
  }
  if (shape.tenant_change > 0) {
    absl::Duration when;
    while ((when += absl::Seconds(random_.Exponential() / shape.tenant_change)) <
           scenario_.fault_phase) {
      queue.After(when, [this] { ChangeTenants(); });
    }
  }
  if (shape.drain > 0) {
    const absl::Duration when = scenario_.fault_phase * (0.5 + random_.Uniform() / 2);
    queue.After(when, [this] { simulation_.Post(Drain{}); });
  }
}

void Workload::ChangeTenants() {
  SetTenants tenants;
  for (int i = 0; i < scenario_.workload.tenants; ++i) {
    if (random_.Chance(0.2)) continue;  // has the defaults
    TenantPolicy& policy = tenants.tenants.emplace_back();
    policy.name = absl::StrCat("tenant-", i);
    policy.weight = 0.5 + 4 * random_.Uniform();
    if (scenario_.workload.shares && random_.Chance(0.7)) {
      policy.kv_share = 0.05 + 0.95 * random_.Uniform();
    }
  }
  simulation_.Post(std::move(tenants));
}

void Workload::SendOne() {
  ++sent_;
  std::shared_ptr<Request> request = DrawRequest();
  StopStrings stops;
  if (request->sampling.has_stop_strings) stops = DrawStops();
  const WorkloadShape& shape = scenario_.workload;
  absl::Duration latency = shape.text_latency * random_.Exponential();
  if (random_.Chance(shape.slow_reader)) {
    latency = random_.Between(absl::Milliseconds(100), absl::Seconds(2));
  }
  text_.SetLatency(request->id, latency);
  const int64_t context_max = scenario_.simulation.scheduler.models[request->model].context_max;
  book_.Add(request, std::move(stops), context_max);
  if (random_.Chance(shape.disconnect)) {
    simulation_.queue().After(absl::Seconds(4 * random_.Exponential() * random_.Uniform()),
                              [this, id = request->id] {
                                simulation_.Post(Cancel{id, FinishReason::kCancelled});
                              });
  }
  simulation_.Post(NewRequest{std::move(request)});
}

std::shared_ptr<Request> Workload::DrawRequest() {
  const WorkloadShape& shape = scenario_.workload;
  auto request = std::make_shared<Request>();
  request->id = next_id_++;
  request->public_id = absl::StrCat("r", request->id);
  request->tenant = absl::StrCat("tenant-", DrawTenant());
  request->model =
      static_cast<uint32_t>(random_.Below(scenario_.simulation.scheduler.models.size()));
  const int64_t context_max = scenario_.simulation.scheduler.models[request->model].context_max;
  DrawPrompt(*request, context_max);
  DrawSampling(*request, context_max);
  DrawCache(*request);
  request->arrival = simulation_.Now();
  if (random_.Chance(shape.deadline)) {
    request->deadline =
        request->arrival +
        random_.Between(absl::Milliseconds(20), absl::Seconds(20)) * random_.Uniform();
  }
  if (shape.priorities > 0) {
    const int most = scenario_.workload.priorities;
    request->priority = static_cast<int>(random_.Between(-most, most));
  }
  return request;
}

uint64_t Workload::DrawTenant() {
  const WorkloadShape& shape = scenario_.workload;
  const uint64_t tenant = random_.Below(static_cast<uint64_t>(shape.tenants));
  if (!shape.latecomer || shape.tenants < 2) return tenant;
  const bool is_late = simulation_.Now() - absl::UnixEpoch() > shape.span / 2;
  return is_late && random_.Chance(0.7) ? 0 : std::max<uint64_t>(tenant, 1);
}

void Workload::DrawPrompt(Request& request, int64_t context_max) {
  std::vector<int32_t>& prompt = request.prompt;
  if (random_.Chance(scenario_.workload.continues) && request.id > 1) {
    const BookedRequest* earlier = book_.Find(1 + random_.Below(request.id - 1));
    prompt = earlier->request->prompt;
    const std::vector<int32_t>& answer = earlier->reference.choices.front().tokens;
    prompt.insert(prompt.end(), answer.begin(), answer.end());
    request.tenant = earlier->request->tenant;
  } else if (random_.Chance(0.7)) {
    prompt = templates_[random_.Below(templates_.size())];
    if (random_.Chance(0.5)) prompt.resize(1 + random_.Below(prompt.size()));
  }
  if (prompt.empty() || random_.Chance(0.7)) {
    for (int64_t n = random_.Between(1, 24); n > 0; --n) prompt.push_back(DrawTokenId());
  }
  const size_t most = static_cast<size_t>(context_max - 1);
  if (prompt.size() > most) prompt.resize(1 + random_.Below(most));
}

void Workload::DrawSampling(Request& request, int64_t context_max) {
  const WorkloadShape& shape = scenario_.workload;
  SamplingParams& sampling = request.sampling;
  const int64_t room = context_max - static_cast<int64_t>(request.prompt.size());
  sampling.max_tokens = static_cast<uint32_t>(random_.Between(1, std::min(room, kAnswerTokensMax)));
  sampling.temperature = static_cast<float>(random_.Below(3)) / 2;
  sampling.seed = random_.Next() & ~uint64_t{0xff};
  if (random_.Chance(shape.failing_logits)) sampling.seed |= kFailingSeedByte;
  for (uint64_t n = random_.Below(random_.Chance(0.2) ? 6 : 3); n > 0; --n) {
    const int32_t id = DrawTokenId();
    std::vector<int32_t>& ids = sampling.stop_token_ids;
    const auto place = std::lower_bound(ids.begin(), ids.end(), id);
    if (place == ids.end() || *place != id) ids.insert(place, id);
  }
  if (random_.Chance(0.2)) {
    sampling.min_tokens = static_cast<uint32_t>(random_.Below(sampling.max_tokens));
  }
  sampling.has_stop_strings = random_.Chance(shape.stop_strings);
  if (random_.Chance(shape.several_choices)) {
    sampling.num_choices = static_cast<uint32_t>(random_.Between(2, 5));
  }
  sampling.logprobs = random_.Chance(shape.logprobs);
  if (sampling.logprobs) sampling.top_logprobs = static_cast<uint32_t>(random_.Below(4));
  if (random_.Chance(shape.prompt_logprobs)) {
    sampling.prompt_logprobs = static_cast<uint32_t>(random_.Between(1, 4));
  }
  if (random_.Chance(shape.penalties)) DrawParameters(sampling);
}

void Workload::DrawParameters(SamplingParams& sampling) {
  sampling.top_k = static_cast<uint32_t>(random_.Below(20));
  sampling.top_p = 0.5f + 0.5f * static_cast<float>(random_.Uniform());
  sampling.min_p = 0.2f * static_cast<float>(random_.Uniform());
  if (random_.Chance(0.5)) sampling.presence_penalty = 0.5f;
  if (random_.Chance(0.5)) sampling.frequency_penalty = 0.25f;
  if (random_.Chance(0.5)) sampling.repetition_penalty = 1.1f;
  if (random_.Chance(0.3)) sampling.logit_bias.emplace_back(DrawTokenId(), 1.5f);
  if (random_.Chance(0.3)) sampling.banned_token_ids.push_back(DrawTokenId());
  if (random_.Chance(0.3)) sampling.allowed_token_ids = {1, 2, 3, DrawTokenId()};
}

void Workload::DrawCache(Request& request) {
  CacheDomain& cache = request.cache;
  cache.enabled = !random_.Chance(scenario_.workload.no_cache);
  cache.key.fill(static_cast<uint8_t>(request.tenant.back()));
  cache.shared_key.fill(0xee);
  if (random_.Chance(0.3)) {
    cache.num_shared_tokens = static_cast<uint32_t>(random_.Below(request.prompt.size() + 1));
  }
}

StopStrings Workload::DrawStops() {
  StopStrings stops;
  for (uint64_t n = 1 + random_.Below(3); n > 0; --n) {
    std::vector<int32_t>& stop = stops.emplace_back();
    // One token or two; two are rare in random text, so both are from few.
    stop.push_back(DrawTokenId());
    if (random_.Chance(0.3)) stop.push_back(DrawTokenId());
  }
  return stops;
}

}  // namespace tessera::simulation
