// The sampler's passes against the CPU: integers and tokens are equal, draws are the same draws.

#include <cmath>
#include <limits>

#include "tests/gpu/side.h"

namespace tessera::gpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Shard {
  const char* name;
  int64_t columns;
  int64_t vocab_begin;
  float step;  // logits are multiples of it, so that there are ties; 0: none
  bool masked;
  bool broken;  // holds NaN and infinities
};

const Shard kShards[] = {
    {"one", 1, 0, 0.0f, false, false},
    {"one_word", 32, 7, 1.0f, true, false},
    {"odd", 33, 1000, 0.0f, true, false},
    {"one_part", 8192, 2, 0.5f, false, true},
    {"a_part_and_one", 8193, 3, 2.0f, true, true},
    {"many", 40009, 131072, 0.0f, false, false},
    {"many_ties", 40009, 5, 3.0f, true, true},
    {"equal", 20000, 1, 1e9f, false, false},
};

class GpuSamplingTest : public GpuTest {
 protected:
  struct Inputs {
    std::vector<float> logits;  // [3, columns + 3]
    std::vector<int32_t> masks;
  };
  Inputs Make(const Shard& shard) {
    const int64_t stride = shard.columns + 3;
    Inputs inputs{Normal(3 * stride, 4.0f), {}};
    for (int64_t i = 0; i < 3 * stride; ++i) {
      float& x = inputs.logits[i];
      if (shard.step > 0) x = std::round(x / shard.step) * shard.step;
      const int odd = shard.broken ? static_cast<int>(random()() % 40) : -1;
      if (odd == 0) x = kNan;
      if (odd == 1) x = -kInfinity;
      if (i % stride >= shard.columns) x = 1e9f;
      if (shard.broken && i / stride == 1) x = kNan;
    }
    inputs.masks.resize(static_cast<size_t>(2 * ((shard.columns + 31) / 32)));
    for (int32_t& word : inputs.masks) word = static_cast<int32_t>(random()());
    return inputs;
  }
  LogitRows Upload(Side& side, const Shard& shard, const Inputs& inputs) {
    LogitRows rows;
    rows.logits = side.Put(kF32, {3, shard.columns + 3}, inputs.logits).Columns(0, shard.columns);
    rows.vocab_begin = shard.vocab_begin;
    rows.row = {2, 0, 2, 1, 0};
    if (!shard.masked) return rows;
    rows.masks = side.PutInts({2, (shard.columns + 31) / 32}, inputs.masks);
    rows.mask = {-1, 1, 0, 0, -1};
    return rows;
  }
};

void ExpectEqual(const std::vector<Candidate>& got, const std::vector<Candidate>& want,
                 const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].token, want[i].token) << what << ", place " << i;
    ASSERT_EQ(got[i].score, want[i].score) << what << ", place " << i;
  }
}

TEST_F(GpuSamplingTest, TopLogits) {
  for (const Shard& shard : kShards) {
    const Inputs inputs = Make(shard);
    for (const int n : {1, 2, 7, kTopLogitsMax}) {
      const auto run = [&](Side& side) {
        std::vector<Candidate> best;
        side.ops().TopLogits(side.context(), best, Upload(side, shard, inputs), n);
        return best;
      };
      ExpectEqual(run(tested()), run(oracle()), std::string(shard.name) + ", " + std::to_string(n));
    }
  }
}

TEST_F(GpuSamplingTest, MassHistogram) {
  for (const Shard& shard : kShards) {
    const Inputs inputs = Make(shard);
    for (const int digit : {3, 2, 0}) {
      const auto run = [&](Side& side, std::vector<uint32_t>& count, std::vector<uint64_t>& mass) {
        count.assign(5 * 256, 1);
        mass.assign(5 * 256, 2);
        side.ops().MassHistogram(side.context(), count, mass, Upload(side, shard, inputs),
                                 std::vector<uint32_t>(5, 0xc0000000u), digit,
                                 {15.0f, 9.0f, 20.0f, 20.0f, 12.0f},
                                 {1.0f, 0.3f, 2.0f, 1.0f, 1.0f});
      };
      std::vector<uint32_t> count, wanted_count;
      std::vector<uint64_t> mass, wanted_mass;
      run(tested(), count, mass);
      run(oracle(), wanted_count, wanted_mass);
      EXPECT_EQ(count, wanted_count) << shard.name << ", digit " << digit;
      EXPECT_EQ(mass, wanted_mass) << shard.name << ", digit " << digit;
    }
  }
}

TEST_F(GpuSamplingTest, Draw) {
  for (const Shard& shard : kShards) {
    const Inputs inputs = Make(shard);
    for (uint32_t turn = 0; turn < 12; ++turn) {
      std::vector<DrawRow> draws;
      for (uint32_t e = 0; e < 5; ++e) {
        const float thresholds[] = {-kInfinity, 3.0f, 6.0f, kInfinity};
        draws.push_back({.inv_temperature = turn % 3 == 0 ? 1.0f : 0.2f + 0.5f * turn,
                         .threshold = thresholds[(turn + e) % 4],
                         .ties_kept = static_cast<int64_t>(turn * turn * e % 997),
                         .seed = seed() + turn,
                         .position = turn * 17 + e,
                         .choice = e % 3});
      }
      const auto run = [&](Side& side) {
        std::vector<Candidate> best;
        side.ops().Draw(side.context(), best, Upload(side, shard, inputs), draws);
        return best;
      };
      ExpectEqual(run(tested()), run(oracle()),
                  std::string(shard.name) + ", turn " + std::to_string(turn));
    }
  }
}

// More entries than the scratch holds at once, from one row.
TEST_F(GpuSamplingTest, ManyEntries) {
  const auto logits = Normal(50000, 3.0f);
  std::vector<DrawRow> draws(20000);
  for (size_t i = 0; i < draws.size(); ++i) {
    draws[i] = {.threshold = 9.0f, .ties_kept = 1, .seed = i, .position = 3};
  }
  const auto run = [&](Side& side) {
    LogitRows rows;
    rows.logits = side.Put(kF32, {1, 50000}, logits);
    rows.row.assign(draws.size(), 0);
    std::vector<Candidate> best;
    side.ops().Draw(side.context(), best, rows, draws);
    return best;
  };
  ExpectEqual(run(tested()), run(oracle()), "draws");
}

TEST_F(GpuSamplingTest, GatherAndScatter) {
  const auto logits = Normal(3 * 5000);
  std::vector<LogitPlace> places;
  std::vector<float> values;
  for (int32_t i = 0; i < 1500; ++i) {
    places.push_back({i % 3, i * 3});
    values.push_back(static_cast<float>(i));
  }
  values[7] = -kInfinity;
  const auto run = [&](Side& side, std::vector<float>& read) {
    const TensorView view = side.Put(kF32, {3, 5000}, logits);
    side.ops().GatherLogits(side.context(), read, view, places);
    side.ops().ScatterLogits(side.context(), view, places, values);
    side.ops().GatherLogits(side.context(), values, view, {});
    values.assign(places.size(), 1.0f);
    return side.Get(view, false);
  };
  const std::vector<float> kept = values;
  std::vector<float> read, wanted_read;
  const auto got = run(tested(), read);
  values = kept;
  const auto want = run(oracle(), wanted_read);
  ExpectSameBits(got, want, "scattered");
  ExpectSameBits(read, wanted_read, "gathered");
}

}  // namespace
}  // namespace tessera::gpu
