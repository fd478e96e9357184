"""`tessera serve` as a user meets it: answers over HTTP and gRPC, routes, drain, nothing left behind."""

import json
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest

import grpc

import harness
from harness import BIN, DEMO_MODEL, Apart, Process, Server


class AnswersTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stubs = harness.Stubs()
        cls.server = Server("--tp", "2", "--device", "cpu", "--reflection")
        cls.addClassCleanup(cls.stubs.__exit__, None, None, None)
        cls.addClassCleanup(cls.server.__exit__, None, None, None)

    def test_the_ready_file_names_every_door(self):
        self.assertGreaterEqual(set(self.server.addresses), {"http", "grpc", "health"})

    def test_answers_its_own_questions_word_for_word(self):
        for question, answer in harness.demo_questions():
            self.assertEqual(self.server.chat(question).strip(), answer.strip(), question)

    def test_the_stream_is_the_answer_in_pieces(self):
        question, answer = harness.demo_questions()[0]
        pieces, finish, usage = [], None, None
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0,
                "stream_options": {"include_usage": True}}
        for chunk in self.server.stream("/v1/chat/completions", body):
            self.assertEqual(chunk["object"], "chat.completion.chunk")
            if chunk["choices"]:
                pieces.append(chunk["choices"][0]["delta"].get("content") or "")
                finish = chunk["choices"][0]["finish_reason"] or finish
            usage = chunk.get("usage") or usage
        self.assertEqual("".join(pieces).strip(), answer.strip())
        self.assertGreater(len([piece for piece in pieces if piece]), 3, "it came at once")
        self.assertEqual(finish, "stop")
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])

    def test_grpc_from_another_language(self):
        question, answer = harness.demo_questions()[1]
        v1 = self.stubs.v1
        with grpc.insecure_channel(self.server.addresses["grpc"]) as channel:
            stub = self.stubs.v1_grpc.TesseraStub(channel)
            request = v1.ChatRequest(messages=[v1.ChatMessage(role="user", content=question)],
                                     sampling=v1.SamplingParams(temperature=0))
            responses = list(stub.Chat(request, timeout=60))
            self.assertEqual("".join(r.text for r in responses).strip(), answer.strip())
            self.assertEqual(responses[-1].finish_reason, v1.FINISH_REASON_STOP)
            self.assertEqual(responses[-1].usage.completion_tokens,
                             sum(len(r.token_ids) for r in responses))
            ids = stub.Tokenize(v1.TokenizeRequest(text="KV cache"), timeout=10).token_ids
            text = stub.Detokenize(v1.DetokenizeRequest(token_ids=ids), timeout=10).text
            self.assertIn("KV cache", text)
            models = stub.ListModels(v1.ListModelsRequest(), timeout=10).models
            self.assertEqual([m.name for m in models], ["demo-model"])
            self.assertTrue(models[0].ready)
            with self.assertRaises(grpc.RpcError) as refused:
                stub.GetModel(v1.GetModelRequest(model="other"), timeout=10)
            self.assertEqual(refused.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_a_prompt_alone_is_scored_as_one_with_an_answer(self):
        body = {"prompt": "Tessera serves language models.", "echo": True, "logprobs": 2,
                "temperature": 0}
        _, answered = self.server.post("/v1/completions", {**body, "max_tokens": 3})
        _, alone = self.server.post("/v1/completions", {**body, "max_tokens": 0})
        (choice,), count = alone["choices"], alone["usage"]["prompt_tokens"]
        self.assertEqual(choice["text"], body["prompt"])
        self.assertEqual(choice["finish_reason"], "length")
        self.assertEqual(alone["usage"]["completion_tokens"], 0)
        for column, values in answered["choices"][0]["logprobs"].items():
            self.assertEqual(choice["logprobs"][column], values[:count], column)
        self.assertLess(sum(choice["logprobs"]["token_logprobs"][1:]), 0)

    def test_tessera_chat(self):
        question, answer = harness.demo_questions()[2]
        done = subprocess.run(
            [BIN / "tessera", "chat", "--address", self.server.addresses["grpc"], "--temperature",
             "0", "--once", question], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.strip(), answer.strip())
        self.assertIn("tok/s", done.stderr)

    def test_tessera_chat_keeps_the_history(self):
        (first, _), (second, _) = harness.demo_questions()[:2]
        done = subprocess.run(
            [BIN / "tessera", "chat", "--address", self.server.addresses["grpc"], "--temperature",
             "0"], input=f"{first}\n{second}\n/reset\n{second}\n", capture_output=True, text=True,
            timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        prompts = [int(line.split()[0][1:]) for line in done.stderr.splitlines() if "tok/s" in line]
        self.assertEqual(len(prompts), 3, done.stderr)
        self.assertGreater(prompts[1], prompts[0] + 20, "the first turn is part of the second prompt")
        self.assertLess(prompts[2], prompts[1])

    def test_routes(self):
        for path in ("/livez", "/readyz", "/version", "/v1/models", "/metrics"):
            status, _, text = self.server.request("GET", path)
            self.assertEqual(status, 200, path)
            self.assertTrue(text, path)
        _, reply = self.server.post("/tokenize", {"prompt": "hello"})
        _, back = self.server.post("/detokenize", {"tokens": reply["tokens"]})
        self.assertIn("hello", back["prompt"])

    def test_health_is_served_on_its_own_port(self):
        with grpc.insecure_channel(self.server.addresses["health"]) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            self.assertEqual(check(b"", timeout=10), b"\x08\x01", "SERVING")

    def test_metrics_count_requests_and_tokens(self):
        before = self.server.metric("tessera_generation_tokens_total")
        _, reply = self.server.post("/v1/completions", {"prompt": "Tessera", "max_tokens": 7,
                                                        "ignore_eos": True, "temperature": 0})
        self.assertEqual(reply["usage"]["completion_tokens"], 7)
        self.assertEqual(self.server.metric("tessera_generation_tokens_total"), before + 7)
        for rank in ("0", "1"):
            self.assertGreater(self.server.metric("tessera_rank_steps_total", rank=rank), 0)


class DefaultsTest(unittest.TestCase):
    def test_a_request_that_does_not_say_gets_what_generation_config_says(self):
        with tempfile.TemporaryDirectory() as directory:
            copy = pathlib.Path(directory) / "copy"
            shutil.copytree(DEMO_MODEL, copy)
            path = copy / "generation_config.json"
            config = {**json.loads(path.read_text()), "repetition_penalty": 5, "max_new_tokens": 40}
            path.write_text(json.dumps(config))
            with Server(model=copy) as server:
                body = {"prompt": "Tessera is a server. Tessera is", "ignore_eos": True}
                _, unsaid = server.post("/v1/completions", body)
                self.assertEqual(unsaid["usage"]["completion_tokens"], 40)
                _, said = server.post("/v1/completions",
                                      {**body, "repetition_penalty": 5, "max_tokens": 40})
                _, off = server.post("/v1/completions", {**body, "repetition_penalty": 1})
                self.assertEqual(unsaid["choices"][0]["text"], said["choices"][0]["text"])
                self.assertNotEqual(unsaid["choices"][0]["text"], off["choices"][0]["text"])
                _, more = server.post("/v1/completions", {**body, "max_tokens": 60})
                self.assertEqual(more["usage"]["completion_tokens"], 60)
            path.write_text(json.dumps({**config, "min_p": 7}))
            with Server(model=copy) as server:
                self.assertIn('generation_config.json: "min_p" is 7', server.output())
                _, odd = server.post("/v1/completions", body)
                self.assertEqual(odd["choices"][0]["text"], unsaid["choices"][0]["text"])


class LifeTest(unittest.TestCase):
    def test_sigterm_lets_open_streams_finish_and_leaves_nothing(self):
        before = harness.shared_memory_names()
        with Server("--tp", "2") as server:
            ranks = server.worker_pids()
            self.assertEqual(len(ranks), 2)
            chunks = []
            begun = threading.Event()

            def read():
                body = {"prompt": "Tessera is", "max_tokens": 400, "ignore_eos": True,
                        "temperature": 0, "stream_options": {"include_usage": True}}
                for chunk in server.stream("/v1/completions", body):
                    chunks.append(chunk)
                    begun.set()

            reader = threading.Thread(target=read)
            reader.start()
            self.assertTrue(begun.wait(30))
            server.signal(signal.SIGTERM)
            reader.join(60)
            self.assertFalse(reader.is_alive())
            self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 400)
            self.assertEqual(server.wait(), 0)
            self.assertFalse(server.ready_file.exists())
            for pid in ranks:
                self.assertEqual(harness.name_of(pid), "", f"rank {pid} is left")
        self.assertEqual(harness.shared_memory_names(), before)

    def test_killing_serve_takes_the_children_along(self):
        with Server("--tp", "2", "--drain-seconds", "0") as server:
            children = harness.children_of(server.process.pid)
            self.assertEqual(len(children), 3)
            server.signal(signal.SIGKILL)
            server.wait()
            harness.wait_until(lambda: not any(harness.name_of(pid) for pid in children), 20,
                               "the children to end")

    def test_a_port_in_use_is_named(self):
        with Server("--tp", "1") as first:
            port = first.addresses["http"].rsplit(":", 1)[1]
            with Process("tessera", "serve", "--model", DEMO_MODEL, "--http-port", port,
                         "--grpc-port", "0", "--health-port", "0") as second:
                self.assertNotEqual(second.wait(), 0)
                self.assertIn(port, second.output())

    def test_the_screen_shows_plan_loading_routes_and_time(self):
        with Server("--tp", "2") as server:
            shown = server.stdout_path.read_text()
        for text in ("memory of one rank", "Loading weights", "/v1/chat/completions", "ready in"):
            self.assertIn(text, shown)

    def test_coordinator_and_workers_apart(self):
        with Apart(4) as coordinator:
            question, answer = harness.demo_questions()[3]
            self.assertEqual(coordinator.chat(question).strip(), answer.strip())
            coordinator.stop()
            self.assertEqual([worker.wait() for worker in coordinator.workers], [0] * 4)

    def test_ranks_on_different_hosts_talk_over_gloo(self):
        # Its own namespaces and its own /dev/shm make a process a host of its own, as far as ranks can tell.
        wrapper = ("unshare", "--ipc", "--mount", "sh", "-c",
                   'mount -t tmpfs none /dev/shm && exec "$@"', "sh")
        if subprocess.run([*wrapper, "true"], capture_output=True).returncode != 0:
            self.skipTest("may not make namespaces here")
        with Server("--listen", "127.0.0.1:0", "--tp", "2", program=("tessera-coordinator",),
                    wait=False) as coordinator:
            harness.wait_until(lambda: "workers 127.0.0.1:" in coordinator.output(), 20, "the log line")
            address = coordinator.output().split("workers ")[1].split()[0]
            arguments = ("--coordinator", address, "--model-root", DEMO_MODEL.parent, "--threads", "1")
            with Process("tessera-worker", *arguments) as near, \
                 Process("tessera-worker", *arguments, wrapper=wrapper) as far:
                coordinator.wait_ready()
                question, answer = harness.demo_questions()[4]
                self.assertEqual(coordinator.chat(question).strip(), answer.strip())
                self.assertIn("gloo", (near.output() + far.output()).lower())


if __name__ == "__main__":
    harness.run_tests()
