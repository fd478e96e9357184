"""A rank that is killed: the group comes back under a new epoch, and streams go on from their tokens."""

import os
import signal
import threading
import unittest

import harness
from harness import Server


class RecoveryTest(unittest.TestCase):
    def test_a_killed_rank_costs_a_pause_and_not_one_byte(self):
        self.a_pause_and_not_one_byte(signal.SIGKILL)

    def test_so_does_a_rank_that_hangs(self):
        self.a_pause_and_not_one_byte(signal.SIGSTOP)

    def a_pause_and_not_one_byte(self, number):
        body = {"prompt": "Tessera is", "max_tokens": 600, "ignore_eos": True, "temperature": 0.8,
                "seed": 7}
        with Server("--tp", "2", "--heartbeats-missed-max", "12") as server:
            _, reply = server.post("/v1/completions", body)
            expected = reply["choices"][0]["text"]
            pieces = []
            begun = threading.Event()

            def read():
                for chunk in server.stream("/v1/completions", body):
                    pieces.append(chunk["choices"][0]["text"])
                    if len(pieces) == 20:
                        begun.set()

            reader = threading.Thread(target=read)
            reader.start()
            self.assertTrue(begun.wait(30))
            victim = server.worker_pids()[0]
            os.kill(victim, number)
            reader.join(120)
            self.assertFalse(reader.is_alive())
            self.assertEqual("".join(pieces), expected)
            self.assertNotIn(victim, server.worker_pids())
            self.assertEqual(len(server.worker_pids()), 2)


if __name__ == "__main__":
    harness.run_tests()
