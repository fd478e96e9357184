"""Long prompts beside running streams: they share the steps, and --inter-token-target-ms bounds what streams notice.

The demo model's context is small, so its longest prompt takes some hundred milliseconds; `tests/simulation` has the
same with 100,000 tokens.
"""

import collections
import math
import random
import selectors
import socket
import threading
import time
import unittest

import harness
from harness import Server, request_bytes, sized

STREAMS = 16
PROMPT_TOKENS = 1000
PAUSE_SECONDS = 0.05  # between two long prompts
SECONDS = sized(2.4, 30)  # of streams alone and of streams beside prompts, each
ROUNDS = 3  # of both in turn
TARGET_STEPS = 3  # the target, in steps of the streams alone
RATIO_MAX = 1.5 * TARGET_STEPS  # of what a stream waits for at worst (p99), to what it waits for alone

Waits = collections.namedtuple("Waits", "p50 p99 max")


def summary(gaps):
    ordered = sorted(gaps)
    return Waits(*(ordered[math.ceil(share * len(ordered)) - 1] * 1e3 for share in (0.5, 0.99, 1)))


class Streams:
    """Sixteen streams on raw sockets, begun anew as they end; notes when their tokens come."""

    def __init__(self, server):
        host, port = server.addresses["http"].split(":")
        self.address = (host, int(port))
        self.selector = selectors.DefaultSelector()
        for number in range(STREAMS):
            self.begin(number)

    def begin(self, number):
        connection = socket.create_connection(self.address)
        connection.sendall(request_bytes("/v1/completions", {
            "prompt": [100 + number], "max_tokens": 1000 - 40 * number, "ignore_eos": True, "stream": True},
            "Connection: close\r\n"))
        self.selector.register(connection, selectors.EVENT_READ, [number, None])

    def read(self, seconds):
        """The seconds between two tokens of one stream, for all tokens of the coming time."""
        gaps, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            for key, _ in self.selector.select(1):
                data, now = key.fileobj.recv(1 << 16), time.monotonic()
                number, last = key.data
                if not data:
                    self.selector.unregister(key.fileobj)
                    key.fileobj.close()
                    self.begin(number)
                events = data.count(b"data: {")
                if events and last is not None:
                    gaps += [now - last] + [0] * (events - 1)
                if events:
                    key.data[1] = now
        return gaps

    def close(self):
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()


class Prompts(threading.Thread):
    """Sends long prompts that no cache knows, one after the other, while it is let."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.draws = server, random.Random(5)
        self.wanted, self.stopping, self.seconds = threading.Event(), threading.Event(), []

    def run(self):
        while not self.stopping.is_set():
            if not self.wanted.wait(0.1):
                continue
            prompt = [self.draws.randrange(100, 2000) for _ in range(PROMPT_TOKENS)]
            begun = time.monotonic()
            self.server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1})
            self.seconds.append(time.monotonic() - begun)
            time.sleep(PAUSE_SECONDS)


class LongPromptTest(unittest.TestCase):
    def measure(self, *flags):
        """(waits of streams alone, beside long prompts, seconds of each prompt)."""
        with Server("--tp", "1", "--threads", "1", *flags) as server:
            prompts, streams = Prompts(server), Streams(server)
            prompts.start()
            prompts.wanted.set()
            streams.read(0.5)  # the scheduler learns what a token costs
            alone, beside = [], []
            for _ in range(ROUNDS):
                prompts.wanted.clear()
                streams.read(0.3)
                alone += streams.read(SECONDS / ROUNDS)
                prompts.wanted.set()
                streams.read(0.1)
                beside += streams.read(SECONDS / ROUNDS)
            prompts.stopping.set()
            streams.read(0.5)
            prompts.join(harness.EXIT_SECONDS)
            streams.close()
        return summary(alone), summary(beside), prompts.seconds

    def test_streams_go_on_beside_long_prompts(self):
        free_alone, free, free_prompts = self.measure()
        target = TARGET_STEPS * free_alone.p50
        alone, bounded, prompts = self.measure("--inter-token-target-ms", f"{target:.2f}")
        print(f"ms between two tokens of {STREAMS} streams, beside prompts of {PROMPT_TOKENS} tokens:\n"
              "                               p50      p99      max   seconds of a prompt")
        for name, waits, seconds in (("alone", free_alone, ()), ("no target", free, free_prompts),
                                     ("alone", alone, ()),
                                     (f"target {target:.1f} ms", bounded, prompts)):
            print(f"  {name:24} {waits.p50:8.1f} {waits.p99:8.1f} {waits.max:8.1f}   " +
                  (f"{sorted(seconds)[len(seconds) // 2]:.2f} (median of {len(seconds)})" if seconds else ""))
        self.assertGreater(len(prompts), 4)
        self.assertLessEqual(bounded.p99, RATIO_MAX * alone.p99)
        self.assertGreater(free.p99, 1.5 * bounded.p99, "without a target it is worse, so this test can fail")


if __name__ == "__main__":
    harness.run_tests()
