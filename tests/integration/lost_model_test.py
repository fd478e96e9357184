"""A rank that dies for good: what waits for its model is told why, and the other models go on."""

import json
import os
import pathlib
import re
import shutil
import signal
import tempfile
import threading
import unittest

import grpc

import harness
from harness import DEMO_MODEL, Server, wait_until

RESTARTS = 5  # of one worker, within ten minutes
BODY = {"prompt": "Tessera is", "max_tokens": 900, "ignore_eos": True, "temperature": 0.8, "seed": 7}


def worker_pid(server, name):
    """The process of the worker with this name, None while there is none."""
    for pid in server.worker_pids():
        try:
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:
            continue
        if name in words:
            return pid
    return None


def kill_for_good(server, name):
    """Kills a worker whenever it is there, until it is not started again: after so many kills, no fewer."""
    killed = set()
    while len(killed) <= RESTARTS:
        wait_until(lambda: worker_pid(server, name) not in {None, *killed}, 30,
                   f"{name} to be started again after {len(killed)} kills\n{server.output()}")
        pid = worker_pid(server, name)
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    wait_until(lambda: f"worker {name} was killed by signal 9 (Killed), after {RESTARTS} restarts"
               in server.output(), 10, f"the end of {name}\n{server.output()}")


class HttpReader(threading.Thread):
    """Reads a stream to its end, whatever that is."""

    def __init__(self, server, body):
        super().__init__()
        self.server, self.body = server, body
        self.text, self.error, self.is_done = "", None, False
        self.begun = threading.Event()

    def run(self):
        connection = self.server.connect(timeout=120)
        connection.request("POST", "/v1/completions", json.dumps({**self.body, "stream": True}),
                           {"Content-Type": "application/json"})
        for line in connection.getresponse():
            line = line.strip().removeprefix(b"data: ")
            if line == b"[DONE]":
                self.is_done = True
            elif line.startswith(b"{"):
                event = json.loads(line)
                self.error = event.get("error", self.error)
                self.text += event["choices"][0]["text"] if event.get("choices") else ""
                self.begun.set()
        connection.close()


class GrpcReader(threading.Thread):
    def __init__(self, server, stubs, body):
        super().__init__()
        self.server, self.stubs, self.body = server, stubs, body
        self.text, self.error = "", None
        self.begun = threading.Event()

    def run(self):
        v1 = self.stubs.v1
        request = v1.GenerateRequest(
            model=self.body["model"], text=self.body["prompt"],
            sampling=v1.SamplingParams(max_tokens=self.body["max_tokens"], ignore_eos=True,
                                       temperature=self.body["temperature"],
                                       seed=self.body["seed"]))
        with grpc.insecure_channel(self.server.addresses["grpc"]) as channel:
            try:
                for message in self.stubs.v1_grpc.TesseraStub(channel).Generate(request, timeout=120):
                    self.text += message.text
                    self.begun.set()
            except grpc.RpcError as error:
                self.error = error


class LostModelTest(unittest.TestCase):
    def test_the_streams_of_the_lost_model_are_told_and_the_other_goes_on(self):
        with harness.Stubs() as stubs, \
                Server("--model", f"second={DEMO_MODEL}", "--tp", "1", "--threads", "1",
                       model_flag=f"first={DEMO_MODEL}") as server:
            status, reply = server.post("/v1/completions", {**BODY, "model": "first"})
            self.assertEqual(status, 200, reply)
            expected = reply["choices"][0]["text"]
            readers = {name: [HttpReader(server, {**BODY, "model": name}),
                              GrpcReader(server, stubs, {**BODY, "model": name})]
                       for name in ("first", "second")}
            for reader in [*readers["first"], *readers["second"]]:
                reader.start()
                self.assertTrue(reader.begun.wait(30))
            kill_for_good(server, "local-0")
            for reader in [*readers["first"], *readers["second"]]:
                reader.join(60)
                self.assertFalse(reader.is_alive())

            # Who asks and who looks at the screen are told by different threads.
            wait_until(lambda: re.search(r"model \w+ is lost", server.output()), 10, "the screen")
            names = [name for name in readers if f"model {name} is lost" in server.output()]
            self.assertEqual(len(names), 1, server.output())
            lost, kept = names[0], "second" if names[0] == "first" else "first"
            reason = ("the model is not served any more: rank 0 (local-0) was killed by signal 9 "
                      f"(Killed), after {RESTARTS} restarts within 10 minutes")
            self.assertIn(f"model {lost} is lost: {reason}; the other models go on", server.output())
            http, rpc = readers[lost]
            self.assertTrue(expected.startswith(http.text))
            self.assertLess(len(http.text), len(expected), "it was over before its rank was killed")
            self.assertFalse(http.is_done)
            self.assertEqual(http.error["message"], reason)
            self.assertEqual(http.error["type"], "service_unavailable")
            self.assertEqual(rpc.error.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertEqual(rpc.error.details(), reason)
            http, rpc = readers[kept]
            self.assertEqual((http.text, http.is_done, http.error), (expected, True, None))
            self.assertEqual((rpc.text, rpc.error), (expected, None))

            status, reply = server.post("/v1/completions", {**BODY, "model": lost})
            self.assertEqual((status, reply["error"]["message"]), (503, reason))
            status, reply = server.post("/v1/completions", {**BODY, "model": kept})
            self.assertEqual((status, reply["choices"][0]["text"]), (200, expected))
            _, _, ready = server.request("GET", "/readyz")
            self.assertIn(reason, ready)
            server.signal(signal.SIGTERM)
            self.assertEqual(server.wait(), 0)

    def test_the_only_model_takes_the_server_along(self):
        with Server("--tp", "2", "--threads", "1") as server:
            reader = HttpReader(server, BODY)
            reader.start()
            self.assertTrue(reader.begun.wait(30))
            kill_for_good(server, "local-1")
            reader.join(60)
            self.assertFalse(reader.is_alive())
            self.assertFalse(reader.is_done)
            self.assertRegex(reader.error["message"], r"rank \d \(local-1\) was killed by signal 9")
            self.assertNotEqual(server.wait(), 0)
            self.assertRegex(server.output(), r"error: model demo-model is lost: .*rank \d \(local-1\)")

    def test_weights_that_cannot_be_read_again_cost_their_model_alone(self):
        with tempfile.TemporaryDirectory() as directory:
            copy = pathlib.Path(directory) / "copy"
            shutil.copytree(DEMO_MODEL, copy)
            # Another model, so that workers do not find its like in the other directory.
            config = json.loads((copy / "config.json").read_text())
            (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 2e-5}))
            with Server("--model", f"second={copy}", "--tp", "1", "--threads", "1",
                        model_flag=f"first={DEMO_MODEL}") as server:
                weights = copy / "model.safetensors"
                weights.rename(copy / "elsewhere")
                weights.write_bytes(b"damaged")
                for name in ("local-0", "local-1"):
                    lines = server.output().count("\n")
                    os.kill(worker_pid(server, name), signal.SIGKILL)
                    wait_until(lambda: any(word in line for line in server.output().splitlines()[lines:]
                                           for word in ("is ready again", "model second is lost")),
                               30, f"what becomes of {name}")
                    if "model second is lost" in server.output():
                        break
                self.assertIn("model second is lost: the model is not served any more: it cannot be "
                              "loaded again", server.output())
                status, reply = server.post("/v1/completions", {**BODY, "model": "second"})
                self.assertEqual(status, 503, reply)
                status, reply = server.post("/v1/completions", {**BODY, "model": "first"})
                self.assertEqual(status, 200, reply)

    def test_streams_that_a_stop_cuts_off_are_told(self):
        with Server("--tp", "1", "--threads", "1", "--drain-seconds", "0.3") as server:
            reader = HttpReader(server, BODY)
            reader.start()
            self.assertTrue(reader.begun.wait(30))
            # It cannot end in time: its rank stands still.
            os.kill(server.worker_pids()[0], signal.SIGSTOP)
            server.signal(signal.SIGTERM)
            reader.join(30)
            self.assertFalse(reader.is_alive())
            self.assertFalse(reader.is_done)
            self.assertEqual(reader.error["type"], "service_unavailable")
            self.assertIn("shutting down", reader.error["message"])
            self.assertEqual(server.wait(), 0)


if __name__ == "__main__":
    harness.run_tests()
