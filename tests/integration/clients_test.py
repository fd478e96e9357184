"""Many clients, rude clients, wrong clients: nothing is disturbed, nothing is lost, errors name the thing."""

import concurrent.futures
import json
import socket
import unittest

import grpc

import harness
from harness import Server


def mixed_requests():
    """32 requests of different kinds and lengths; every one is deterministic by its own seed."""
    questions = harness.demo_questions()
    requests = []
    for i in range(32):
        body = {"prompt": questions[i % len(questions)][0] * (1 + i % 5), "max_tokens": 8 + 3 * (i % 13),
                "seed": 1000 + i, "ignore_eos": i % 3 == 0}
        body["temperature"] = [0, 0.7, 1.0, 1.3][i % 4]
        if i % 4 == 1:
            body["top_k"] = 20
        if i % 4 == 2:
            body["top_p"] = 0.9
        requests.append(body)
    return requests


def complete(server, body):
    status, reply = server.post("/v1/completions", body)
    if status != 200:
        raise AssertionError(f"{status}: {reply}")
    usage = reply["usage"]
    # What the prefix cache holds depends on who came before; nothing else may.
    del usage["prompt_tokens_details"]
    return reply["choices"][0]["text"], usage, reply["choices"][0]["finish_reason"]


class SameAnswersTest(unittest.TestCase):
    def test_together_alone_and_on_any_number_of_ranks(self):
        requests = mixed_requests()
        reference = None
        for tp in ("1", "2", "4"):
            with Server("--tp", tp) as server:
                with concurrent.futures.ThreadPoolExecutor(32) as pool:
                    together = list(pool.map(lambda body: complete(server, body), requests))
                if reference is None:
                    reference = [complete(server, body) for body in requests]
            self.assertEqual(together, reference, f"tp {tp}")

    def test_sixteen_streams_share_their_steps(self):
        with Server("--tp", "1") as server:
            body = {"prompt": "Tessera", "max_tokens": 200, "ignore_eos": True, "temperature": 0}
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                list(pool.map(lambda _: complete(server, body), range(16)))
            rows = server.metric("tessera_step_rows_sum")
            steps = server.metric("tessera_step_rows_count")
            self.assertGreaterEqual(rows / steps, 8, "at least half of sixteen rows per step")


class RudeClientsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--tp", "2")
        cls.addClassCleanup(cls.server.__exit__, None, None, None)

    def tearDown(self):
        question, answer = harness.demo_questions()[0]
        self.assertEqual(self.server.chat(question).strip(), answer.strip(), "still well afterwards")

    def refuse(self, path, body, status, *words):
        got, headers, text = self.server.request("POST", path, body)
        self.assertEqual(got, status, text)
        error = json.loads(text)["error"]
        for word in words:
            self.assertIn(word, f"{error['message']} {error['param']} {error['code']}")
        self.assertIn("x-request-id", {name.lower() for name in headers})
        return error

    def test_a_client_that_goes_away_frees_its_blocks(self):
        host, port = self.server.addresses["http"].split(":")
        body = json.dumps({"prompt": "Tessera", "max_tokens": 900, "ignore_eos": True, "stream": True})
        for _ in range(5):
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                   f"{len(body)}\r\nContent-Type: application/json\r\n\r\n{body}".encode())
                self.assertIn(b"200", connection.recv(200))
        harness.wait_until(lambda: self.server.metric("tessera_requests_running") == 0 and
                           self.server.metric("tessera_kv_cache_usage_ratio") == 0, 10,
                           "running requests and KV use to be 0")
        self.assertGreaterEqual(
            self.server.metric("tessera_requests_total", finish_reason="cancelled"), 5)

    def test_grpc_cancel_and_deadline(self):
        with harness.Stubs() as stubs:
            v1 = stubs.v1
            request = v1.GenerateRequest(text="Tessera", sampling=v1.SamplingParams(
                max_tokens=900, ignore_eos=True))
            with grpc.insecure_channel(self.server.addresses["grpc"]) as channel:
                stub = stubs.v1_grpc.TesseraStub(channel)
                call = stub.Generate(request)
                next(call)
                call.cancel()
                with self.assertRaises(grpc.RpcError) as late:
                    list(stub.Generate(request, timeout=0.05))
                self.assertEqual(late.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        harness.wait_until(lambda: self.server.metric("tessera_requests_running") == 0, 10,
                           "running requests to be 0")

    def test_bad_requests_are_named(self):
        chat, completions = "/v1/chat/completions", "/v1/completions"
        user = [{"role": "user", "content": "hi"}]
        self.refuse(completions, "{", 400)
        self.refuse(completions, '{"prompt": "a", "temperature": "hot"}', 400, "temperature")
        self.refuse(completions, {"prompt": "a", "temperature": -1}, 400, "temperature")
        self.refuse(completions, {"prompt": "a", "max_tokens": -5}, 400, "max_tokens")
        self.refuse(completions, {"prompt": "a", "max_tokens": 10**12}, 400, "max_tokens")
        self.refuse(completions, {"prompt": "a", "top_p": 1e300}, 400, "top_p")
        self.refuse(completions, {"prompt": "a", "top_k": -2}, 400, "top_k")
        self.refuse(completions, {"prompt": ""}, 400, "prompt")
        self.refuse(completions, {"prompt": [10**7]}, 400, "prompt")
        self.refuse(completions, {}, 400, "prompt")
        self.refuse(completions, {"prompt": "word " * 3000}, 400, "context")
        self.refuse(completions, {"prompt": "a", "model": "nobody"}, 404, "nobody")
        self.refuse(completions, {"prompt": "a", "n": 1000}, 400, "n")
        self.refuse(chat, {"messages": []}, 400, "messages")
        self.refuse(chat, {"messages": user, "stream": "yes"}, 400, "stream")
        self.refuse(chat, {"messages": [{"role": "robot", "content": "hi"}]}, 400, "role")
        self.refuse(chat, {"messages": user, "stop": ["x"] * 100}, 400, "stop")
        self.refuse(chat, {"messages": user, "logprobs": 3}, 400, "logprobs")

    def test_unknown_routes_and_methods(self):
        self.refuse("/v1/nothing", {}, 404)
        status, headers, _ = self.server.request("GET", "/v1/chat/completions")
        self.assertEqual(status, 405)
        self.assertIn("POST", headers["Allow"])

    def test_a_body_of_ten_megabytes_is_refused(self):
        status, _, text = self.server.request("POST", "/v1/completions",
                                              '{"prompt": "' + "a" * (10 << 20) + '"}')
        self.assertEqual(status, 413, text[:200])

    def test_unknown_fields_are_ignored(self):
        status, _ = self.server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "colour": "red"})
        self.assertEqual(status, 200)

    def test_noise_on_every_door(self):
        for door in ("http", "grpc", "health", "workers"):
            host, port = self.server.addresses[door].split(":")
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(bytes(range(256)) * 64)


if __name__ == "__main__":
    harness.run_tests()
