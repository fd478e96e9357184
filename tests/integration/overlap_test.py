"""Overlapped steps on real processes: a slow answer from the ranks costs no time on the ranks.

A proxy between worker and coordinator delays every result by half a step. With two plans in flight the rank has its
next plan already; with one (the control: this test can fail) it waits all of the delay. What is compared are the
ranks' own accounts (busy and idle seconds per step) in many short windows with and without delay in turn, so that
whatever else the machine does meets both alike.
"""

import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import unittest

import harness
from harness import Apart, sized

REQUESTS, CHOICES = 4, 8  # 32 streams: a step of some milliseconds
WINDOW_SECONDS = 0.15
SETTLE_SECONDS = 0.05  # after a change of the delay: the steps that were on their way
CHANGE_MAX = 0.02  # of a step, for half a step of delay
ROUNDS_MAX = 4  # of measuring
GAP_MAX = 0.05  # of a step


class DelayProxy:
    """Call it with an address to have it forwarded; see delay_proxy.py."""

    def __call__(self, address):
        program = harness.ROOT / "tests/integration/delay_proxy.py"
        self.process = subprocess.Popen([sys.executable, program, address], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return f"127.0.0.1:{self.process.stdout.readline().strip()}"

    def delay(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(harness.EXIT_SECONDS)


class Streams:
    """Keeps 32 long streams running as long as the `with` block; they cost no client any time."""

    def __init__(self, server):
        self.server = server
        self.stopping = threading.Event()
        self.connections = [None] * REQUESTS
        self.threads = [threading.Thread(target=self.feed, args=(number,), daemon=True)
                        for number in range(REQUESTS)]

    def feed(self, number):
        body = {"prompt": [100 + number] * 4, "max_tokens": 1000, "ignore_eos": True, "n": CHOICES}
        while not self.stopping.is_set():
            with self.server.send("/v1/completions", body) as connection:
                self.connections[number] = connection
                while connection.recv(1 << 16):
                    pass

    def __enter__(self):
        for thread in self.threads:
            thread.start()
            time.sleep(0.3)  # so that they do not end all at once
        return self

    def __exit__(self, *exception):
        self.stopping.set()
        for number, thread in enumerate(self.threads):
            while thread.is_alive():
                try:
                    self.connections[number].shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # its answer came to its end just now
                thread.join(1)


class Window:
    """The accounts of rank 0 between two moments, in milliseconds per step."""

    def __init__(self, server, seconds):
        before = server.scrape()
        time.sleep(seconds)
        after = server.scrape()

        def grown(name, **labels):
            return after.sum(name, rank="0", **labels) - before.sum(name, rank="0", **labels)

        self.steps = grown("tessera_rank_steps_total")
        self.period = grown("tessera_rank_device_seconds_total") / self.steps * 1e3
        self.idle = grown("tessera_rank_device_seconds_total", kind="idle") / self.steps * 1e3


class OverlapTest(unittest.TestCase):
    def measure(self, tp, pairs, *flags):
        """(windows at once, windows with results delayed, the delay in ms: half a step)."""
        proxy = DelayProxy()
        self.addCleanup(lambda: proxy.close())
        with Apart(tp, *flags, via=proxy) as server, Streams(server):
            time.sleep(SETTLE_SECONDS)
            first = [Window(server, WINDOW_SECONDS) for _ in range(7)]
            busy = statistics.median(window.period - window.idle for window in first)
            delay = busy / 2
            windows = {0: [], delay: []}
            for pair in range(pairs):
                for setting in (0, delay) if pair % 2 else (delay, 0):
                    proxy.delay(setting / 1e3)
                    time.sleep(SETTLE_SECONDS)
                    windows[setting].append(Window(server, WINDOW_SECONDS))
            proxy.delay(0)
        return windows[0], windows[delay], delay

    def report(self, name, at_once, late, delay):
        for label, windows in (("results at once", at_once), (f"{delay:.2f} ms later", late)):
            print(f"{name}, {label}: {statistics.median(w.period for w in windows):.3f} ms per step, of these "
                  f"{statistics.median(w.idle for w in windows):.3f} ms idle")

    def costs_nothing(self, tp):
        at_once, late = [], []
        for _ in range(ROUNDS_MAX):  # until it can be told
            more_at_once, more_late, delay = self.measure(tp, sized(20, 200))
            at_once += more_at_once
            late += more_late
            self.report(f"tp {tp}, two plans in flight", at_once, late, delay)
            period = statistics.median(window.period for window in at_once)
            gap, gap_error = harness.median_and_error(
                [(after.idle - before.idle) / period for after, before in zip(late, at_once)])
            step, step_error = harness.median_and_error(
                [after.period / before.period - 1 for after, before in zip(late, at_once)])
            print(f"  the gap grows by {gap:.2%} +- {gap_error:.2%} of a step, "
                  f"the step as a whole by {step:.2%} +- {step_error:.2%}")
            if gap + 2 * gap_error <= CHANGE_MAX or gap - 2 * gap_error > CHANGE_MAX:
                break
        self.assertLessEqual(gap + 2 * gap_error, CHANGE_MAX)
        # Neighbours on the machine change the step too, and nobody's gap.
        self.assertLessEqual(step - 2 * step_error, CHANGE_MAX)

    def test_a_result_that_comes_half_a_step_late_costs_nothing(self):
        self.costs_nothing(1)

    @unittest.skipIf(os.cpu_count() < 4, "two ranks and a coordinator need more than two cores to overlap")
    def test_nor_does_it_with_two_ranks(self):
        self.costs_nothing(2)

    def test_with_one_plan_in_flight_it_costs_the_delay(self):
        at_once, late, delay = self.measure(1, sized(8, 20), "--plans-in-flight", "1")
        self.report("tp 1, one plan in flight", at_once, late, delay)
        gap, error = harness.median_and_error(
            [with_delay.idle - without.idle for with_delay, without in zip(late, at_once)])
        print(f"  the gap grows by {gap:.2f} +- {error:.2f} ms")
        self.assertGreater(gap, 0.8 * delay)
        period = statistics.median(window.period for window in at_once)
        self.assertGreater(gap - 2 * error, 4 * CHANGE_MAX * period, "the test above would see it")

    def test_the_gap_between_steps(self):
        for _ in range(ROUNDS_MAX):
            with Apart(1) as server, Streams(server):
                time.sleep(SETTLE_SECONDS)
                windows = [Window(server, WINDOW_SECONDS) for _ in range(sized(20, 200))]
            gaps = [window.idle for window in windows]
            period = statistics.median(window.period for window in windows)
            # Neighbours on the machine only ever lengthen it: the quieter windows are what it takes.
            quiet = statistics.quantiles(gaps, n=4)[0]
            print(f"tp 1, {REQUESTS * CHOICES} streams: {statistics.median(gaps) * 1e3:.0f} us, in the quieter windows "
                  f"{quiet * 1e3:.0f} us between two steps of {period:.2f} ms")
            if quiet < GAP_MAX * period:
                break
        self.assertLess(quiet, GAP_MAX * period)


if __name__ == "__main__":
    harness.run_tests()
