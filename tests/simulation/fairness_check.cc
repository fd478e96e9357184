// See the header.

#include "tests/simulation/fairness_check.h"

#include <algorithm>
#include <variant>

#include "absl/strings/str_cat.h"
#include "tests/simulation/workload.h"

namespace tessera::simulation {
namespace {

constexpr double kSampleCost = 2;  // of a token that is told, in tokens of a prompt
// For held cache and for tokens that were drawn and not told.
constexpr double kSlack = 1.2;

}  // namespace

void FairnessCheck::Observe(const Event& event) {
  if (const auto* request = std::get_if<NewRequest>(&event)) {
    const Request& r = *request->request;
    Tenant& tenant = tenants_[{r.model, r.tenant}];
    const auto weight = weights_.find(r.tenant);
    tenant.weight = weight == weights_.end() ? 1 : weight->second;
    tenant.waiting[r.id] = {.request = r.id,
                            .priority = r.priority,
                            .arrival = r.arrival,
                            .scores_prompt = r.sampling.prompt_logprobs > 0};
  } else if (const auto* set = std::get_if<SetTenants>(&event)) {
    weights_.clear();
    for (const TenantPolicy& policy : set->tenants) {
      weights_[policy.name] = policy.weight;
      if (policy.kv_share < 1) looks_ = false;
    }
    for (auto& [key, tenant] : tenants_) {
      const auto weight = weights_.find(key.second);
      tenant.weight = weight == weights_.end() ? 1 : weight->second;
    }
    pairs_.clear();
  }
}

void FairnessCheck::Observe(const cluster::v1::StepPlan& plan) {
  for (const cluster::v1::SequenceReset& reset : plan.resets()) {
    const BookedRequest* booked = book_.Find(reset.request_id());
    if (booked == nullptr) continue;
    const int64_t start = plan.start_position(static_cast<int>(reset.row()));
    Start(*booked, static_cast<int64_t>(booked->request->prompt.size()) - start);
  }
}

// The request's first row. Whoever came before it, stood as high and still waits was overtaken.
void FairnessCheck::Start(const BookedRequest& booked, int64_t owed) {
  const Request& request = *booked.request;
  Tenant& tenant = tenants_[{request.model, request.tenant}];
  if (tenant.waiting.erase(request.id) == 0) return;  // planned before
  tenant.service += static_cast<double>(std::max<int64_t>(owed, 0)) / tenant.weight;
  for (auto& [id, earlier] : tenant.waiting) {
    if (id > request.id) break;
    // Its age makes up for so many steps of priority; one more, since both are rounded.
    const int steps = std::max(0, request.priority - earlier.priority + 1);
    const bool stood_higher = request.priority > earlier.priority &&
                              request.arrival - earlier.arrival < steps * options_.priority_ageing;
    // One that scores its prompt needs rows of logits, of which another one may take all.
    if (stood_higher || earlier.scores_prompt) continue;
    if (++earlier.overtaken > options_.rows_max && looks_) {
      violations_.Report(Checker::kFairness,
                         absl::StrCat("request r", id, " waits, and ", earlier.overtaken,
                                      " later ones of its tenant that never stood higher ran"));
    }
  }
}

void FairnessCheck::Observe(const RequestUpdate& update) {
  const BookedRequest* booked = book_.Find(update.request);
  if (booked == nullptr) return;
  Tenant& tenant = tenants_[{booked->request->model, booked->request->tenant}];
  tenant.service += kSampleCost * static_cast<double>(update.tokens().size()) / tenant.weight;
  if (update.finished) tenant.waiting.erase(update.request);
}

bool FairnessCheck::IsBacklogged(const Tenant& tenant) const {
  return static_cast<int64_t>(tenant.waiting.size()) > options_.rows_max;
}

// Service that one tenant can get without another look at whose turn it is: of everything that is
// admitted, and of what is admitted and not planned yet.
double FairnessCheck::HeldAtOnce(uint32_t model) const {
  const double rows = static_cast<double>(options_.rows_max);
  const double prompt = static_cast<double>(options_.models[model].context_max);
  return kSlack * ((rows + 1) * prompt + rows * kSampleCost * kAnswerTokensMax);
}

void FairnessCheck::ComparePair(uint32_t model, const std::string& a, const std::string& b) {
  const Tenant& first = tenants_[{model, a}];
  const Tenant& second = tenants_[{model, b}];
  Pair& pair = pairs_[{{model, a}, {model, b}}];
  if (!IsBacklogged(first) || !IsBacklogged(second)) {
    pair.active = false;
    return;
  }
  const double difference = first.service - second.service;
  if (!pair.active) pair = {true, difference, difference};
  ++num_comparisons_;
  pair.least = std::min(pair.least, difference);
  pair.most = std::max(pair.most, difference);
  const double held = HeldAtOnce(model);
  const double bound = held / first.weight + held / second.weight;
  if (pair.most - pair.least <= bound) return;
  violations_.Report(
      Checker::kFairness,
      absl::StrCat("while both wait, ", a, " and ", b, " of model ", model, " drift apart by ",
                   pair.most - pair.least, " weighted tokens, at most ", bound));
}

void FairnessCheck::AfterTurn() {
  if (!looks_ || !equal_priorities_) return;
  for (auto a = tenants_.begin(); a != tenants_.end(); ++a) {
    for (auto b = std::next(a); b != tenants_.end() && b->first.first == a->first.first; ++b) {
      ComparePair(a->first.first, a->first.second, b->first.second);
    }
  }
}

}  // namespace tessera::simulation
