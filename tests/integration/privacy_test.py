"""What is written about requests, and what never is: audit lines, traces on the ranks, and no word of prompts or
answers in any log, metric, usage record or error, on the ways of success, refusal and crash."""

import json
import os
import pathlib
import signal
import tempfile
import threading
import unittest

import grpc

import harness
from harness import Apart, wait_until

CANARY = "Zugvogel quokka brymzel lantern"  # nothing that an id or a time could contain by chance
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def pieces(text, size=12):
    """What of a text would be recognized in a log: its beginning, middle and end."""
    return {text[at:at + size] for at in (0, len(text) // 2, len(text) - size) if len(text) >= 3 * size}


class PrivacyTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)
        folder = pathlib.Path(cls.directory.name)
        cls.audit_file = folder / "audit.jsonl"
        cls.usage = folder / "usage"
        cls.usage.mkdir()
        cls.stubs = harness.Stubs()
        cls.addClassCleanup(cls.stubs.__exit__, None, None, None)
        cls.server = Apart(1, "--audit-log", cls.audit_file, "--usage-dir", cls.usage, "--log-level", "debug",
                           "--log-format", "json", "--metrics-compat", "vllm",
                           worker_flags=("--log-level", "debug", "--log-format", "json"))
        cls.addClassCleanup(cls.server.__exit__, None, None, None)
        cls.answers = []
        cls.errors = []

    def audit(self):
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]

    def audited(self, request_id):
        """The audit line of a request; there is exactly one."""
        wait_until(lambda: any(line["request_id"] == request_id for line in self.audit()), 10,
                   f"the audit line of {request_id}")
        lines = [line for line in self.audit() if line["request_id"] == request_id]
        self.assertEqual(len(lines), 1)
        return lines[0]

    def ask(self, path, body, name, **headers):
        status, answered, text = self.server.request("POST", path, body, {"x-request-id": name, **headers})
        if status == 200:
            self.answers.append(text)
        else:
            self.errors.append(text)
        return status, answered, text

    def worker_log(self):
        return self.server.workers[0].output()

    def test_1_an_answer_is_audited_and_its_trace_reaches_the_ranks(self):
        status, headers, text = self.ask("/v1/chat/completions",
                                         {"messages": [{"role": "system", "content": f"You are {CANARY}."},
                                                       {"role": "user", "content": f"Say {CANARY}"}],
                                          "max_tokens": 48, "ignore_eos": True, "stop": [CANARY]},
                                         "privacy-1", traceparent=TRACEPARENT)
        self.assertEqual(status, 200, text)
        self.assertRegex(headers["traceresponse"], f"^00-{TRACE}-[0-9a-f]{{16}}-01$")
        self.assertNotEqual(headers["traceresponse"], TRACEPARENT)
        line = self.audited("privacy-1")
        reply = json.loads(text)
        self.assertEqual((line["status"], line["trace_id"], line["door"], line["tenant"], line["id"]),
                         ("200", TRACE, "http", "default", reply["id"]))
        self.assertEqual(line["method"], "POST /v1/chat/completions")
        self.assertEqual((line["prompt_tokens"], line["output_tokens"]),
                         (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]))
        self.assertGreater(line["milliseconds"], 0)
        wait_until(lambda: f"traceparent={headers['traceresponse']}" in self.worker_log(), 10, "the rank's line")
        self.assertIn(f"request={reply['id']}", self.worker_log())

    def test_2_grpc_is_audited_too(self):
        with grpc.insecure_channel(self.server.addresses["grpc"]) as channel:
            v1 = self.stubs.v1
            stub = self.stubs.v1_grpc.TesseraStub(channel)
            request = v1.GenerateRequest(text=f"Once {CANARY}",
                                         sampling=v1.SamplingParams(max_tokens=24, ignore_eos=True))
            call = stub.Generate(request, metadata=(("x-request-id", "privacy-2"), ("traceparent", TRACEPARENT)))
            for _ in call:
                pass
            trailers = dict(call.trailing_metadata())
            self.assertRegex(trailers["traceresponse"], f"^00-{TRACE}-")
            with self.assertRaises(grpc.RpcError) as refused:
                bad = v1.GenerateRequest(text=CANARY, sampling=v1.SamplingParams(max_tokens=10_000_000))
                list(stub.Generate(bad, metadata=(("x-request-id", "privacy-3"),)))
            self.errors.append(refused.exception.details())
        line = self.audited("privacy-2")
        self.assertEqual((line["status"], line["door"], line["method"], line["trace_id"]),
                         ("OK", "grpc", "Generate", TRACE))
        self.assertEqual(line["output_tokens"], 24)
        self.assertEqual(self.audited("privacy-3")["status"], "INVALID_ARGUMENT")

    def test_3_refusals_say_nothing_of_the_text(self):
        long_text = f"{CANARY} " * 2000
        bodies = [
            ("/v1/completions", {"prompt": long_text, "max_tokens": 4}),
            ("/v1/completions", {"prompt": CANARY, "max_tokens": -1}),
            ("/v1/completions", {"prompt": [CANARY, 7]}),
            ("/v1/completions", {"prompt": {"text": CANARY}}),
            ("/v1/completions", {"prompt": CANARY, "logit_bias": {"x": 1}}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": {"no": CANARY}}]}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": CANARY}, CANARY]}),
            ("/v1/chat/completions", {"messages": CANARY}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": CANARY}], "tools": [{"x": CANARY}]}),
            ("/tokenize", {"prompt": 5, "note": CANARY}),
            ("/detokenize", {"tokens": [CANARY]}),
        ]
        for number, (path, body) in enumerate(bodies):
            status, _, text = self.ask(path, body, f"refused-{number}")
            self.assertEqual(status, 400, text)
            self.assertEqual(self.audited(f"refused-{number}")["status"], "400")
        for number, end in enumerate(('", ', '" x', '\n"}', '\\q"}', '\x01"}')):
            status, _, text = self.ask("/v1/completions", '{"prompt": "' + CANARY + end, f"refused-json-{number}")
            self.assertEqual(status, 400, text)
            self.assertIn("byte", text)
        for trace in ("", "00-00-00-00", TRACEPARENT[:-1], TRACEPARENT.upper()):
            _, headers, _ = self.ask("/v1/completions", {"prompt": CANARY, "max_tokens": 1}, f"trace-{len(trace)}",
                                     traceparent=trace)
            self.assertNotIn(TRACE, headers["traceresponse"])

    def test_4_who_goes_away_and_whose_rank_dies_is_audited(self):
        body = {"prompt": f"{CANARY} {CANARY}", "max_tokens": 800, "ignore_eos": True, "stream": True}
        connection = self.server.connect()
        connection.request("POST", "/v1/completions", json.dumps(body),
                           {"Content-Type": "application/json", "x-request-id": "gone"})
        response = connection.getresponse()
        self.answers.append(response.read(400).decode(errors="replace"))
        response.close()
        connection.close()
        self.assertEqual(self.audited("gone")["status"], "499")

        begun = threading.Event()
        pid = self.server.workers[0].process.pid

        def read():
            connection = self.server.connect()
            connection.request("POST", "/v1/completions", json.dumps(body),
                               {"Content-Type": "application/json", "x-request-id": "crashed"})
            response = connection.getresponse()
            text = response.read(300)
            begun.set()
            self.answers.append((text + response.read()).decode(errors="replace"))
            connection.close()
        reader = threading.Thread(target=read)
        reader.start()
        self.assertTrue(begun.wait(30))
        os.kill(pid, signal.SIGKILL)
        self.server.workers[0].wait()
        address = self.server.output().split("workers ")[1].split('"')[0].split()[0]
        self.server.workers.append(harness.Process(
            "tessera-worker", "--coordinator", address, "--model-root", harness.DEMO_MODEL.parent, "--threads", "1",
            "--log-level", "debug"))
        reader.join(60)
        self.assertFalse(reader.is_alive())
        line = self.audited("crashed")
        self.assertEqual((line["status"], line["output_tokens"]), ("200", 800))

    def test_5_nothing_of_it_is_written_anywhere(self):
        metrics = self.server.request("GET", "/metrics")[2]
        self.server.signal(signal.SIGTERM)
        self.assertEqual(self.server.wait(), 0)
        written = {"metrics": metrics, "audit": self.audit_file.read_text(), "coordinator": self.server.output(),
                   "usage": "".join(file.read_text() for file in self.usage.rglob("*") if file.is_file())}
        for number, worker in enumerate(self.server.workers):
            written[f"worker {number}"] = worker.output()
        for number, error in enumerate(self.errors):
            written[f"error {number}"] = error
        self.assertGreaterEqual(len(self.errors), 12)
        secrets = {CANARY, *pieces(CANARY, 7), *CANARY.split()}
        for answer in self.answers:
            try:
                reply = json.loads(answer)["choices"][0]
                secrets |= pieces(reply.get("text") or reply["message"]["content"])
            except ValueError:
                pass  # a stream: its texts are those of other answers
        self.assertGreater(len(secrets), 8)
        for place, text in written.items():
            self.assertTrue(text, place)
            for secret in secrets:
                self.assertNotIn(secret, text, place)

    def test_6_logs_are_json_lines(self):
        for process in (self.server, self.server.workers[0]):
            lines = process.stderr_path.read_text().splitlines()
            self.assertGreater(len(lines), 3)
            for line in lines:
                self.assertTrue({"time", "level", "logger", "message"} <= set(json.loads(line)), line)


if __name__ == "__main__":
    harness.run_tests()
