"""Ten times more requests than can be served: the served ones lose nothing, the others hear so at once.

A few clients keep every place of the server taken: the peak. A flood of requests beside them comes and goes, and what
the server gives is measured in turn with and without it, so that whatever else the machine does meets both alike.
"""

import itertools
import math
import random
import statistics
import threading
import time
import unittest

import harness
from harness import Server, sized
from traffic import Traffic, closed_loop, open_loop

ROWS, WAITING = 16, 16
OVERLOAD = 10
ANSWER_TOKENS = (384 + 895) / 2
PAIRS = sized(14, 3)  # of a time at the peak and a time of flood
PEAK_SECONDS = sized(0.5, 20)
FLOOD_SECONDS = sized(0.5, 60)
SETTLE_SECONDS = 0.1  # of each, before anything is measured
PROBES_PER_SECOND = 40
GOODPUT_MIN = 0.95
REFUSAL_SECONDS_MAX = 0.020
GROWTH_MAX = 0.04  # of resident memory


def bodies(seed):
    """Endless requests: short prompts that no cache knows, answers of 384 to 895 tokens.

    Long answers are few requests: clients and server share the machine's cores.
    """
    draws = random.Random(seed)
    while True:
        yield {"prompt": [draws.randrange(100, 2000) for _ in range(16)], "ignore_eos": True,
               "max_tokens": draws.randrange(384, 896), "seed": draws.randrange(1 << 32)}


class Goodput:
    """What the server gives in the coming seconds.

    No client of this test goes away, and that every answer arrives whole is checked: all its tokens are good.
    """

    def __init__(self, server, seconds):
        before, begun = server.scrape(), time.monotonic()
        time.sleep(seconds)
        after, passed = server.scrape(), time.monotonic() - begun

        def grown(name, **labels):
            return after.sum(name, **labels) - before.sum(name, **labels)

        steps = grown("tessera_steps_total")
        self.tokens = grown("tessera_generation_tokens_total") / passed
        self.rows = grown("tessera_step_rows_sum") / steps
        self.idle = grown("tessera_rank_device_seconds_total", kind="idle") / steps
        self.busy = grown("tessera_rank_device_seconds_total") / steps - self.idle


def summary(goodputs):
    tokens, rows, busy, idle = (statistics.median(getattr(good, name) for good in goodputs)
                                for name in ("tokens", "rows", "busy", "idle"))
    return (f"{tokens:.0f} tokens/s; {rows:.1f} rows per step of {busy * 1e3:.2f} ms, "
            f"{idle * 1e3:.2f} ms between two (medians of {len(goodputs)})")


def percentile(values, share):
    return sorted(values)[math.ceil(share * len(values)) - 1]


class Memory(threading.Thread):
    """Resident MiB of a process, twice a second."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.done, self.samples = pid, threading.Event(), []

    def run(self):
        while not self.done.wait(0.5):
            self.samples.append(harness.resident_mebibytes(self.pid))


class OverloadTest(unittest.TestCase):
    def setUp(self):
        flags = ("--rows-max", ROWS, "--waiting-max", WAITING)
        self.server = Server("--tp", "1", "--threads", "1", *map(str, flags))
        self.addCleanup(self.server.__exit__, None, None, None)
        self.memory = Memory(self.server.coordinator_pid())

    def traffic(self, generator, *arguments):
        return Traffic(generator, self.server.addresses["http"], *arguments)

    def flood(self):
        """Sets what is measured at the peak and in the flood, and the outcomes of all requests."""
        seconds = PAIRS * (PEAK_SECONDS + FLOOD_SECONDS)
        filling = self.traffic(closed_loop, bodies(1), 2.5 + seconds, ROWS + WAITING // 2)
        time.sleep(1)
        self.rate = OVERLOAD * Goodput(self.server, 1).tokens / ANSWER_TOKENS
        begun = time.monotonic()
        starts = [begun + pair * (PEAK_SECONDS + FLOOD_SECONDS) for pair in range(PAIRS)]
        floods = [(start + PEAK_SECONDS, start + PEAK_SECONDS + FLOOD_SECONDS) for start in starts]
        flood = self.traffic(open_loop, bodies(2), floods, self.rate, 2)
        probe = self.traffic(open_loop, itertools.repeat({"prompt": [7], "max_tokens": 1}), floods,
                             PROBES_PER_SECOND, 3)
        self.memory.start()
        self.peaks, self.goods = [], []
        for start, (flood_begin, flood_end) in zip(starts, floods):
            self.peaks.append(self.goodput(start, flood_begin))
            self.goods.append(self.goodput(flood_begin, flood_end))
        self.memory.done.set()
        self.filled, self.flooded, self.probed = (t.outcomes() for t in (filling, flood, probe))

    def goodput(self, begin, end):
        time.sleep(max(0, begin + SETTLE_SECONDS - time.monotonic()))
        return Goodput(self.server, end - time.monotonic())

    def test_ten_times_too_many(self):
        self.flood()
        server = self.server
        harness.wait_until(lambda: server.metric("tessera_requests_running") == 0, 10,
                           "the last request")
        after = server.scrape()
        question, answer = harness.demo_questions()[0]
        self.assertEqual(server.chat(question), answer)

        everything = self.filled + self.flooded + self.probed
        refused = [outcome for outcome in everything if outcome.status == 429]
        waits = [outcome.ended - outcome.begun for outcome in self.probed if outcome.status == 429]
        share, error = harness.median_and_error(
            [good.tokens / peak.tokens for good, peak in zip(self.goods, self.peaks)])
        samples = self.memory.samples
        quarter = len(samples) // 4  # the first one is for caches to fill and code to be read
        early, late = (statistics.median(part) for part in
                       (samples[quarter:2 * quarter], samples[-quarter:]))
        print(f"peak:  {summary(self.peaks)}\nflood: {summary(self.goods)}")
        print(f"{share:.1%} +- {error:.1%} of the peak with {self.rate:.0f} requests/s more, "
              f"{len(refused)} of {len(everything)} refused; of {len(waits)} probes refused: "
              f"{percentile(waits, 0.5) * 1e3:.1f} ms (p50), {percentile(waits, 0.99) * 1e3:.1f} ms (p99)")
        print(f"coordinator: {early:.1f} MiB early, {late:.1f} MiB late")

        self.assertEqual({outcome.status for outcome in everything}, {200, 429})
        self.assertGreater(sum(outcome.status == 429 for outcome in self.flooded),
                           0.7 * len(self.flooded), "it was far too many")
        self.assertGreater(len(waits), PROBES_PER_SECOND * PAIRS * FLOOD_SECONDS / 2)
        for outcome in refused:
            self.assertGreaterEqual(int(outcome.retry_after), 1)
        self.assertEqual(after.sum("tessera_generation_tokens_total"),
                         sum(outcome.tokens for outcome in everything), "all that was counted arrived")
        self.assertGreaterEqual(share + 2 * error, GOODPUT_MIN)
        self.assertLessEqual(percentile(waits, 0.99), REFUSAL_SECONDS_MAX)
        self.assertLessEqual(late, early * (1 + GROWTH_MAX))
        self.assertEqual(after.sum("tessera_requests_waiting"), 0)
        self.assertEqual(after.sum("tessera_kv_cache_usage_ratio"), 0)


if __name__ == "__main__":
    harness.run_tests()
