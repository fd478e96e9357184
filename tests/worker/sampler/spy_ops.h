// Ops that show what the sampler asked of Draw; the sampling passes are the CPU's.

#ifndef TESSERA_TESTS_WORKER_SAMPLER_SPY_OPS_H_
#define TESSERA_TESTS_WORKER_SAMPLER_SPY_OPS_H_

#include <vector>

#include "tests/worker/comm/fake_ops.h"

namespace tessera {

class SpyOps final : public FakeOps {
 public:
  explicit SpyOps(Ops& inner) : inner_(inner) {}
  const std::vector<DrawRow>& draws() const { return draws_; }  // of the last Draw

  void TopLogits(const ExecContext& ctx, std::vector<Candidate>& best, const LogitRows& rows,
                 int n) override {
    inner_.TopLogits(ctx, best, rows, n);
  }
  void MassHistogram(const ExecContext& ctx, std::vector<uint32_t>& count,
                     std::vector<uint64_t>& mass, const LogitRows& rows,
                     const std::vector<uint32_t>& prefix, int digit, const std::vector<float>& max,
                     const std::vector<float>& inv_temperature) override {
    inner_.MassHistogram(ctx, count, mass, rows, prefix, digit, max, inv_temperature);
  }
  void Draw(const ExecContext& ctx, std::vector<Candidate>& best, const LogitRows& rows,
            const std::vector<DrawRow>& draws) override {
    draws_ = draws;
    inner_.Draw(ctx, best, rows, draws);
  }

 private:
  Ops& inner_;
  std::vector<DrawRow> draws_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_SAMPLER_SPY_OPS_H_
