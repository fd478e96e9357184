// What the sampler's tests share: logits cut into uneven shards, one thread and one loopback
// communicator per rank, and random logits and rows.

#ifndef TESSERA_TESTS_WORKER_SAMPLER_RANKS_H_
#define TESSERA_TESTS_WORKER_SAMPLER_RANKS_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "counting_communicator.h"
#include "worker/sampler.h"

namespace tessera {

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Matrix = std::vector<std::vector<float>>;  // [L, V]

// One rank while RunRanks runs.
struct RankOfTest {
  Ops& ops;
  CountingCommunicator& comm;
  int64_t begin;  // its shard of the vocabulary
  int64_t end;
};

// Runs `body` on `shards` ranks at once, each with its shard of `vocab` tokens.
void RunRanks(int shards, int64_t vocab, const std::function<void(RankOfTest&)>& body);

// Columns of a rank, [L, Vs] row after row.
std::vector<float> ShardOf(const Matrix& logits, const RankOfTest& rank);
TensorView ViewOf(std::vector<float>& shard, size_t rows);

struct Outcome {
  std::vector<int32_t> tokens;
  int gathers = 0;
};

// Samples over `shards` ranks. All must agree and leave the logits as they were.
Outcome SampleSharded(const Matrix& logits, const std::vector<SampleRow>& rows, int shards);

// The tokens that each row's Draw may take, over all shards, ascending. Rows that draw, without
// rules.
std::vector<std::vector<int32_t>> KeptSets(const Matrix& logits, const std::vector<SampleRow>& rows,
                                           int shards);

// Row i of the logits for row i.
std::vector<SampleRow> EachItsOwn(std::vector<SampleRow> rows);

// `step` > 0 rounds logits to multiples of it: the coarser, the more ties.
std::vector<float> RandomLogits(std::mt19937& random, size_t vocab, float step);

// Any kind of row: greedy, drawn, with every cut and every combination of them.
SampleRow RandomRow(std::mt19937& random, uint32_t position);

// How many times the usual number of random cases to try: TESSERA_TEST_SCALE, 1 if it is not set.
// Above 1 the long tests take their long form.
int TestScale();

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_SAMPLER_RANKS_H_
