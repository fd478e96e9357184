// The life of groups, driven by hand under a manual clock.

#include "coordinator/cluster/group_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "tests/coordinator/cluster/cluster_fixtures.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
namespace pb = cluster::v1;

class GroupManagerTest : public ::testing::Test {
 protected:
  void Make(std::vector<ModelTarget> models) {
    GroupManagerOptions options;
    options.term = 7;
    options.models = std::move(models);
    manager_ = std::make_unique<GroupManager>(options);
  }
  // Joins and returns the id; what the manager wants done is appended to actions_.
  uint64_t Join(const std::string& name, const std::string& host = "host-a",
                uint64_t memory = uint64_t{1} << 30) {
    const auto id = manager_->Join(HelloFrom(name, host, memory), clock_.Now(), actions_);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  }
  void Say(uint64_t worker, const pb::WorkerMessage& message) {
    manager_->OnMessage(worker, message, clock_.Now(), actions_);
  }
  std::vector<std::pair<uint64_t, pb::Assign>> TakeAssigns() {
    std::vector<std::pair<uint64_t, pb::Assign>> assigns;
    for (const auto& send : actions_.sends) {
      if (send.message.has_assign()) assigns.emplace_back(send.worker, send.message.assign());
    }
    actions_ = GroupActions();
    return assigns;
  }
  // Brings a freshly assigned group to ready; the events and notices stay in actions_.
  void FinishStart(const std::vector<std::pair<uint64_t, pb::Assign>>& assigns) {
    for (const auto& [worker, assign] : assigns) {
      Say(worker,
          CommHelloMessage(assign.epoch(), assign.rank(), absl::StrCat("blob", assign.rank())));
      EXPECT_TRUE(manager_->OnStepStream(worker, assign.epoch(), clock_.Now(), actions_).ok());
      Say(worker, ReadyMessage(assign.epoch()));
    }
  }
  template <typename E>
  std::vector<E> EventsOf() const {
    std::vector<E> events;
    for (const Event& event : actions_.events) {
      if (const E* found = std::get_if<E>(&event)) events.push_back(*found);
    }
    return events;
  }
  std::vector<Notice> NoticesOf(Notice::Kind kind) const {
    std::vector<Notice> notices;
    for (const Notice& notice : actions_.notices) {
      if (notice.kind == kind) notices.push_back(notice);
    }
    return notices;
  }

  ManualClock clock_;
  GroupActions actions_;
  std::unique_ptr<GroupManager> manager_;
};

TEST_F(GroupManagerTest, FormsAGroupOnceAllRanksHaveJoined) {
  Make({SmallModel("m", 2)});
  const uint64_t first = Join("w0");
  EXPECT_EQ(NoticesOf(Notice::Kind::kWaiting).size(), 1u);
  EXPECT_TRUE(TakeAssigns().empty());
  const uint64_t second = Join("w1");
  const auto assigns = TakeAssigns();
  ASSERT_EQ(assigns.size(), 2u);
  EXPECT_EQ(assigns[0].first, first);
  EXPECT_EQ(assigns[1].first, second);
  EXPECT_EQ(assigns[1].second.rank(), 1u);
  EXPECT_EQ(assigns[0].second.term(), 7u);
  EXPECT_EQ(assigns[0].second.epoch(), 1u);
  EXPECT_EQ(assigns[0].second.model_dir_name(), "m-dir");
  EXPECT_EQ(assigns[0].second.manifest_digest(), "digest-of-m");
  EXPECT_EQ(assigns[0].second.comm(), pb::COMM_SHARED_MEMORY);
  ASSERT_EQ(assigns[0].second.num_blocks_size(), 1);
  EXPECT_GT(assigns[0].second.num_blocks(0), 0u);

  FinishStart(assigns);
  const auto ready = EventsOf<GroupReady>();
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_EQ(ready[0].epoch, 1u);
  EXPECT_EQ(ready[0].num_blocks[0], assigns[0].second.num_blocks(0));
  EXPECT_EQ(manager_->ReadyRanks(0, 1), (std::vector<uint64_t>{first, second}));
  EXPECT_TRUE(manager_->ReadyRanks(0, 2).empty());
}

TEST_F(GroupManagerTest, ReadyNeedsEveryRankAndEveryStepStream) {
  Make({SmallModel("m", 2)});
  const uint64_t first = Join("w0");
  const uint64_t second = Join("w1");
  TakeAssigns();
  Say(first, ReadyMessage(1));
  Say(second, ReadyMessage(1));
  ASSERT_TRUE(manager_->OnStepStream(first, 1, clock_.Now(), actions_).ok());
  EXPECT_TRUE(EventsOf<GroupReady>().empty());
  ASSERT_TRUE(manager_->OnStepStream(second, 1, clock_.Now(), actions_).ok());
  EXPECT_EQ(EventsOf<GroupReady>().size(), 1u);
}

TEST_F(GroupManagerTest, BlobsAreRelayedInRankOrderOnceAllHaveSpoken) {
  Make({SmallModel("m", 2)});
  const uint64_t first = Join("w0");
  const uint64_t second = Join("w1");
  TakeAssigns();
  Say(second, CommHelloMessage(1, 1, "from-1"));
  EXPECT_TRUE(actions_.sends.empty());
  Say(first, CommHelloMessage(1, 0, "from-0"));
  ASSERT_EQ(actions_.sends.size(), 2u);
  for (const auto& send : actions_.sends) {
    ASSERT_TRUE(send.message.has_comm_peers());
    EXPECT_THAT(send.message.comm_peers().blobs(), ::testing::ElementsAre("from-0", "from-1"));
  }
}

TEST_F(GroupManagerTest, TransportFollowsWhereTheRanksAre) {
  Make({SmallModel("m", 2)});
  Join("w0", "host-a");
  Join("w1", "host-b");
  EXPECT_EQ(TakeAssigns()[0].second.comm(), pb::COMM_GLOO);
  Make({SmallModel("m", 1)});
  Join("w0");
  EXPECT_EQ(TakeAssigns()[0].second.comm(), pb::COMM_SOLO);
}

TEST_F(GroupManagerTest, ALostRankEndsTheEpochAndTheNextOneUsesTheSurvivorInItsPlace) {
  Make({SmallModel("m", 2)});
  const uint64_t first = Join("w0");
  const uint64_t second = Join("w1");
  FinishStart(TakeAssigns());
  actions_ = GroupActions();
  manager_->OnLeft(first, absl::UnavailableError("killed"), clock_.Now(), actions_);
  const auto lost = EventsOf<GroupLost>();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].epoch, 1u);
  EXPECT_THAT(std::string(lost[0].reason.message()), HasSubstr("w0"));
  ASSERT_EQ(actions_.sends.size(), 1u);
  EXPECT_EQ(actions_.sends[0].worker, second);
  EXPECT_TRUE(actions_.sends[0].message.has_unassign());
  EXPECT_TRUE(manager_->ReadyRanks(0, 1).empty());
  actions_ = GroupActions();

  const uint64_t spare = Join("w2");
  const auto assigns = TakeAssigns();
  ASSERT_EQ(assigns.size(), 2u);
  EXPECT_EQ(assigns[0].first, spare) << "rank 0 was the lost one";
  EXPECT_EQ(assigns[1].first, second) << "the survivor keeps its rank and so its weights";
  EXPECT_EQ(assigns[1].second.epoch(), 2u);
}

TEST_F(GroupManagerTest, SurvivorsWaitForTheirOwnBeforeAnotherGroupTakesThem) {
  for (const bool returns : {true, false}) {
    SCOPED_TRACE(returns);
    actions_ = GroupActions();
    Make({SmallModel("a", 2), SmallModel("b", 2)});
    std::vector<uint64_t> workers;
    for (const char* name : {"w0", "w1", "w2", "w3"}) workers.push_back(Join(name));
    FinishStart(TakeAssigns());
    actions_ = GroupActions();
    for (const size_t dies : {0, 3}) {  // one of each group
      manager_->OnLeft(workers[dies], absl::UnavailableError("killed"), clock_.Now(), actions_);
    }
    EXPECT_TRUE(TakeAssigns().empty()) << "one of each does not make a group";
    if (returns) {
      const uint64_t again = Join("w3");
      const auto assigns = TakeAssigns();
      ASSERT_EQ(assigns.size(), 2u);
      EXPECT_EQ(assigns[0].second.model_name(), "b") << "where it was before";
      EXPECT_EQ(assigns[0].first, workers[2]);
      EXPECT_EQ(assigns[1].first, again);
      continue;
    }
    std::vector<std::pair<uint64_t, pb::Assign>> assigns;
    for (absl::Duration waited; waited < kReturnGrace; waited += absl::Milliseconds(250)) {
      EXPECT_TRUE(assigns.empty()) << "after " << waited;
      clock_.Advance(absl::Milliseconds(250));
      for (const size_t lives : {1, 2}) Say(workers[lives], HeartbeatMessage());
      manager_->Tick(clock_.Now(), actions_);
      assigns = TakeAssigns();
    }
    EXPECT_EQ(assigns.size(), 2u) << "one model is better than none";
  }
}

TEST_F(GroupManagerTest, StaleMessagesOfAnEarlierEpochAreIgnored) {
  Make({SmallModel("m", 1)});
  const uint64_t worker = Join("w0");
  FinishStart(TakeAssigns());
  manager_->OnStepFailed(0, 1, absl::InternalError("hung"), clock_.Now(), actions_);
  const auto assigns = TakeAssigns();
  ASSERT_EQ(assigns.size(), 1u);
  EXPECT_EQ(assigns[0].second.epoch(), 2u);
  Say(worker, ReadyMessage(1));
  EXPECT_FALSE(manager_->OnStepStream(worker, 1, clock_.Now(), actions_).ok());
  manager_->OnStepFailed(0, 1, absl::InternalError("late"), clock_.Now(), actions_);
  EXPECT_TRUE(actions_.events.empty());
  FinishStart(assigns);
  EXPECT_EQ(EventsOf<GroupReady>().size(), 1u);
}

TEST_F(GroupManagerTest, MissedHeartbeatsLoseTheWorker) {
  Make({SmallModel("m", 2)});
  const uint64_t first = Join("w0");
  Join("w1");
  FinishStart(TakeAssigns());
  actions_ = GroupActions();
  for (int i = 0; i < 6; ++i) {
    clock_.Advance(absl::Milliseconds(200));
    Say(first, HeartbeatMessage());
    manager_->Tick(clock_.Now(), actions_);
  }
  const auto lost = EventsOf<GroupLost>();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_THAT(std::string(lost[0].reason.message()), HasSubstr("w1"));
  EXPECT_THAT(std::string(lost[0].reason.message()), HasSubstr("no heartbeat"));
  EXPECT_TRUE(manager_->RankOf(first).status().code() == absl::StatusCode::kNotFound)
      << "the survivor is free again";
}

TEST_F(GroupManagerTest, WrongProtocolVersionIsRefusedByName) {
  Make({SmallModel("m", 1)});
  pb::Hello hello = HelloFrom("w0");
  hello.set_protocol_version(pb::PROTOCOL_VERSION_CURRENT + 2);
  auto refused = manager_->Join(hello, clock_.Now(), actions_);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr(absl::StrCat("version ", pb::PROTOCOL_VERSION_CURRENT + 2)));
  hello.set_protocol_version(0);
  EXPECT_FALSE(manager_->Join(hello, clock_.Now(), actions_).ok());
  hello.set_protocol_version(pb::PROTOCOL_VERSION_CURRENT + 1);
  EXPECT_TRUE(manager_->Join(hello, clock_.Now(), actions_).ok());
}

TEST_F(GroupManagerTest, TooLittleMemorySaysWhatWouldFit) {
  Make({SmallModel("m", 2)});
  Join("w0", "host-a", 1 << 16);
  Join("w1", "host-a", 1 << 16);
  const auto failures = NoticesOf(Notice::Kind::kLoadFailed);
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(TakeAssigns().empty());
}

TEST_F(GroupManagerTest, MemoryIsSharedByTheRanksOfADeviceAndNoOthers) {
  // With all of one device's memory the cache is full-sized; with half of it there are fewer
  // blocks.
  const auto blocks_with = [&](const std::vector<std::string>& devices) {
    ModelTarget model = SmallModel("m", static_cast<int>(devices.size()));
    model.memory.kv_bytes_max = uint64_t{1} << 40;
    Make({std::move(model)});
    for (size_t i = 0; i < devices.size(); ++i) {
      pb::Hello hello = HelloFrom(absl::StrCat("w", i), "host-a", uint64_t{1} << 30);
      hello.mutable_hardware()->set_device_id(devices[i]);
      EXPECT_TRUE(manager_->Join(hello, clock_.Now(), actions_).ok());
    }
    return TakeAssigns().at(0).second.num_blocks(0);
  };
  const uint32_t apart = blocks_with({"0000:1b:00.0", "0000:1c:00.0"});
  const uint32_t together = blocks_with({"0000:1b:00.0", "0000:1b:00.0"});
  EXPECT_GT(apart, together + together / 2);
}

TEST_F(GroupManagerTest, ALoadFailureIsToldWithTheWorkersNameAndNotRetriedWithIt) {
  Make({SmallModel("m", 1)});
  const uint64_t worker = Join("w0");
  TakeAssigns();
  pb::WorkerMessage failed;
  failed.mutable_failed()->set_epoch(1);
  failed.mutable_failed()->set_code(static_cast<int>(absl::StatusCode::kFailedPrecondition));
  failed.mutable_failed()->set_message("another model lies there");
  Say(worker, failed);
  const auto failures = NoticesOf(Notice::Kind::kLoadFailed);
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].status.message(), "worker w0: another model lies there");
  EXPECT_TRUE(TakeAssigns().empty());
}

TEST_F(GroupManagerTest, RanksOfOtherNumericsAreSentAway) {
  Make({SmallModel("m", 2)});
  const uint64_t first = Join("w0");
  const uint64_t second = Join("w1");
  TakeAssigns();
  for (uint64_t worker : {first, second}) {
    ASSERT_TRUE(manager_->OnStepStream(worker, 1, clock_.Now(), actions_).ok());
  }
  Say(first, ReadyMessage(1, "cpu-a"));
  Say(second, ReadyMessage(1, "cpu-b"));
  EXPECT_TRUE(EventsOf<GroupReady>().empty());
  ASSERT_FALSE(actions_.disconnects.empty());
  EXPECT_EQ(actions_.disconnects[0].worker, second);
  EXPECT_THAT(std::string(actions_.disconnects[0].reason.message()), HasSubstr("cpu-b"));
}

TEST_F(GroupManagerTest, FailedStartsWaitLongerAndLonger) {
  Make({SmallModel("m", 1)});
  Join("w0");
  TakeAssigns();
  manager_->OnStepFailed(0, 1, absl::UnavailableError("connect"), clock_.Now(), actions_);
  EXPECT_TRUE(TakeAssigns().empty()) << "not at once";
  clock_.Advance(absl::Milliseconds(300));
  manager_->Tick(clock_.Now(), actions_);
  EXPECT_EQ(TakeAssigns().size(), 1u);
  manager_->OnStepFailed(0, 2, absl::UnavailableError("connect"), clock_.Now(), actions_);
  clock_.Advance(absl::Milliseconds(300));
  manager_->Tick(clock_.Now(), actions_);
  EXPECT_TRUE(TakeAssigns().empty());
  clock_.Advance(absl::Milliseconds(300));
  manager_->Tick(clock_.Now(), actions_);
  EXPECT_EQ(TakeAssigns().size(), 1u);
}

TEST_F(GroupManagerTest, ALoadThatHangsStartsAgain) {
  Make({SmallModel("m", 1)});
  const uint64_t worker = Join("w0");
  const auto assigns = TakeAssigns();
  pb::WorkerMessage progress;
  progress.mutable_load_progress()->set_epoch(assigns[0].second.epoch());
  const auto wait = [&](absl::Duration time) {
    for (absl::Time end = clock_.Now() + time; clock_.Now() < end;) {
      clock_.Advance(absl::Milliseconds(250));
      Say(worker, HeartbeatMessage());
      manager_->Tick(clock_.Now(), actions_);
    }
  };
  wait(kLoadSilenceMax - absl::Seconds(1));
  Say(worker, progress);
  wait(kLoadSilenceMax - absl::Seconds(1));
  EXPECT_TRUE(TakeAssigns().empty()) << "it makes progress";
  wait(absl::Seconds(2));
  const auto again = TakeAssigns();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].second.epoch(), assigns[0].second.epoch() + 1);
}

TEST_F(GroupManagerTest, DamagedMessagesDisconnectOnlyTheirSender) {
  Make({SmallModel("m", 2)});
  const uint64_t first = Join("w0");
  Join("w1");
  TakeAssigns();
  Say(first, CommHelloMessage(1, 0, std::string(kCommBlobBytesMax + 1, 'x')));
  Say(first, pb::WorkerMessage());
  ASSERT_EQ(actions_.disconnects.size(), 2u);
  for (const auto& gone : actions_.disconnects) EXPECT_EQ(gone.worker, first);
}

// Random joins, losses and failures: a worker is in at most one group, epochs only grow, and once
// enough workers stay, every group becomes ready.
TEST_F(GroupManagerTest, RandomLivesEndReady) {
  for (uint32_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937 random(seed);
    Make({SmallModel("a", 2), SmallModel("b", 4)});
    std::set<uint64_t> alive;
    std::map<uint32_t, uint64_t> epochs;
    std::map<uint32_t, bool> ready;
    std::vector<std::pair<uint64_t, pb::Assign>> pending;
    const auto collect = [&] {
      for (const Event& event : actions_.events) {
        if (const auto* up = std::get_if<GroupReady>(&event)) ready[up->group] = true;
        if (const auto* down = std::get_if<GroupLost>(&event)) ready[down->group] = false;
      }
      for (auto& [worker, assign] : TakeAssigns()) {
        EXPECT_GE(assign.epoch(), epochs[assign.group()]);
        epochs[assign.group()] = assign.epoch();
        pending.emplace_back(worker, assign);
      }
    };
    for (int i = 0; i < 60; ++i) {
      const uint32_t what = random() % 10;
      if (what < 4 && alive.size() < 8) alive.insert(Join(absl::StrCat("w", i)));
      if (what == 4 && !alive.empty()) {
        auto victim = std::next(alive.begin(), random() % alive.size());
        manager_->OnLeft(*victim, absl::UnavailableError("killed"), clock_.Now(), actions_);
        alive.erase(victim);
      }
      if (what >= 5 && !pending.empty()) {
        FinishStart({});
        auto [worker, assign] = pending.front();
        pending.erase(pending.begin());
        const auto rank = manager_->RankOf(worker);
        if (rank.ok() && rank->epoch == assign.epoch()) FinishStart({{worker, assign}});
      }
      clock_.Advance(absl::Milliseconds(random() % 100));
      for (uint64_t worker : alive) Say(worker, HeartbeatMessage());
      manager_->Tick(clock_.Now(), actions_);
      collect();
    }
    while (alive.size() < 6) alive.insert(Join("spare"));
    for (int i = 0; i < 200 && !(ready[0] && ready[1]); ++i) {
      clock_.Advance(absl::Milliseconds(200));
      for (uint64_t worker : alive) Say(worker, HeartbeatMessage());
      manager_->Tick(clock_.Now(), actions_);
      collect();
      for (const auto& [worker, assign] : std::exchange(pending, {})) {
        const auto rank = manager_->RankOf(worker);
        if (rank.ok() && rank->epoch == assign.epoch() && rank->group == assign.group()) {
          FinishStart({{worker, assign}});
        }
      }
      collect();
    }
    EXPECT_TRUE(ready[0] && ready[1]);
  }
}

}  // namespace
}  // namespace tessera
