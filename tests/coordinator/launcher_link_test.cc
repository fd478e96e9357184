// Lines from the launcher: whole ones, pieces, nonsense, and the end of the other side.

#include "coordinator/launcher_link.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <string>

namespace tessera {
namespace {

class LauncherLinkTest : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    far_ = ends[0];
    link_.emplace(ends[1]);
  }
  void TearDown() override { CloseFar(); }
  void CloseFar() {
    if (far_ >= 0) close(far_);
    far_ = -1;
  }
  void Say(const std::string& text) {
    ASSERT_EQ(send(far_, text.data(), text.size(), MSG_NOSIGNAL), std::ssize(text));
  }

  int far_ = -1;
  std::optional<LauncherLink> link_;
};

TEST_F(LauncherLinkTest, LinesInPieces) {
  EXPECT_TRUE(link_->Take().empty());  // and it did not wait
  Say(R"({"event":"gone","worker":"local-0","rea)");
  EXPECT_TRUE(link_->Take().empty());
  Say("son\":\"exited with 1\"}\n{\"event\":\"gone\",\"worker\":\"local-1\"}\n");
  const std::vector<WorkerGone> gone = link_->Take();
  ASSERT_EQ(gone.size(), 2u);
  EXPECT_EQ(gone[0].worker, "local-0");
  EXPECT_EQ(gone[0].reason, "exited with 1");
  EXPECT_EQ(gone[1].worker, "local-1");
  EXPECT_TRUE(link_->Take().empty());
}

TEST_F(LauncherLinkTest, NonsenseIsSkipped) {
  Say("hello\n[]\n{\"event\":\"gone\"}\n{\"event\":5,\"worker\":\"a\"}\n"
      "{\"event\":\"gone\",\"worker\":\"b\"}\n");
  const std::vector<WorkerGone> gone = link_->Take();
  ASSERT_EQ(gone.size(), 1u);
  EXPECT_EQ(gone[0].worker, "b");
}

TEST_F(LauncherLinkTest, WhatWasSaidLastIsHeard) {
  Say("{\"event\":\"gone\",\"worker\":\"b\"}\n");
  CloseFar();
  EXPECT_EQ(link_->Take().size(), 1u);
  EXPECT_EQ(link_->fd(), -1);
  EXPECT_TRUE(link_->Take().empty());
}

TEST_F(LauncherLinkTest, ALineWithoutEndIsNotCollected) {
  Say(std::string(kLauncherLineBytesMax + 1, 'x'));
  EXPECT_TRUE(link_->Take().empty());
  EXPECT_EQ(link_->fd(), -1);
}

}  // namespace
}  // namespace tessera
