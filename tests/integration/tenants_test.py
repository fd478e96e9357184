"""API keys and tenants on real processes: who is let in, what their limits are, and a key file that changes."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import grpc

import harness
from harness import Process, Server, wait_until

RELOAD_SECONDS = 15
QUESTION, ANSWER = harness.demo_questions()[0]


def chat_body(**parameters):
    return {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, **parameters}


class KeysTest(unittest.TestCase):
    """Each test has a key file of its own; the tenants are in it before the server starts."""

    def setUp(self):
        directory = pathlib.Path(tempfile.mkdtemp(prefix="tessera-keys-"))
        self.addCleanup(shutil.rmtree, directory)
        self.file = directory / "keys.json"
        self.file.write_text(json.dumps({"tenants": [], "keys": []}))

    def keygen(self, tenant, *arguments):
        made = subprocess.run(
            [harness.BIN / "tessera", "keygen", "--tenant", tenant, "--file", self.file, *arguments],
            check=True, capture_output=True, text=True, timeout=30)
        return made.stdout.strip()

    def edit(self, change):
        """Lets `change` edit the file's content and puts it in place at once."""
        content = json.loads(self.file.read_text())
        change(content)
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=2))
        temporary.rename(self.file)

    def tenant(self, name, **fields):
        def change(content):
            content["tenants"] = [t for t in content["tenants"] if t["name"] != name]
            content["tenants"].append({"name": name, **fields})
        self.edit(change)

    def ask(self, server, key, **parameters):
        """(status, headers, reply) of one chat completion."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        status, headers, text = server.request("POST", "/v1/chat/completions",
                                               chat_body(**parameters), headers)
        return status, headers, json.loads(text)

    def wait_for_status(self, server, key, status):
        wait_until(lambda: self.ask(server, key)[0] == status, RELOAD_SECONDS,
                   f"status {status} after a change of the key file")

    def test_who_is_let_in(self):
        good = self.keygen("acme")
        expired = self.keygen("acme", "--expires-days", "0.0000001")
        self.tenant("other", models=["another-model"])
        wrong_model = self.keygen("other")
        with Server("--api-keys", self.file) as server:
            status, _, reply = self.ask(server, good)
            self.assertEqual(status, 200)
            self.assertEqual(reply["choices"][0]["message"]["content"], ANSWER)
            for key in (None, "", "wrong", good[:-1], good + "x", expired):
                status, _, reply = self.ask(server, key)
                self.assertEqual(status, 401, key)
                self.assertEqual(reply["error"]["code"], "invalid_api_key")
            status, _, reply = self.ask(server, wrong_model, model=harness.DEMO_MODEL.name)
            self.assertEqual(status, 404)
            self.assertEqual(reply["error"]["code"], "model_not_found")
            # Probes and metrics need no key.
            for path in ("/livez", "/readyz", "/metrics"):
                self.assertEqual(server.request("GET", path)[0], 200)
            with harness.Stubs() as stubs, \
                    grpc.insecure_channel(server.addresses["grpc"]) as channel:
                stub = stubs.v1_grpc.TesseraStub(channel)
                with self.assertRaises(grpc.RpcError) as refused:
                    stub.ListModels(stubs.v1.ListModelsRequest(), timeout=30)
                self.assertEqual(refused.exception.code(), grpc.StatusCode.UNAUTHENTICATED)
                models = stub.ListModels(stubs.v1.ListModelsRequest(), timeout=30,
                                         metadata=[("authorization", f"Bearer {good}")])
                self.assertEqual(len(models.models), 1)
            self.assertEqual(server.metric("tessera_tenant_requests_total", tenant="acme"), 1)
            self.assertGreaterEqual(
                server.metric("tessera_authentication_failures_total", reason="expired"), 1)

    def test_the_file_is_read_again_while_requests_run(self):
        first = self.keygen("acme")
        with Server("--api-keys", self.file) as server:
            self.assertEqual(self.ask(server, first)[0], 200)
            second = self.keygen("acme")
            self.wait_for_status(server, second, 200)

            # A key that is taken out is refused; what it has started is answered.
            workers = server.worker_pids()
            running = {}
            thread = threading.Thread(
                target=lambda: running.update(result=self.ask(server, first)))
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            try:
                thread.start()
                wait_until(lambda: server.metric("tessera_requests_running") > 0, 10, "a request")
                self.edit(lambda content: content["keys"].pop(0))
                time.sleep(2)
                self.assertEqual(self.ask(server, first)[0], 401)
            finally:
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
            thread.join(timeout=60)
            self.assertEqual(running["result"][0], 200)
            self.assertEqual(running["result"][2]["choices"][0]["message"]["content"], ANSWER)

            # A damaged file changes nothing and is told once, with line and field.
            self.edit(lambda content: content["tenants"][0].update(weight=0))
            wait_until(lambda: "tenants[0].weight" in server.output(), RELOAD_SECONDS,
                       "the complaint about the key file")
            self.assertRegex(server.output(), r"keys\.json, line \d+: tenants\[0\]\.weight is 0")
            time.sleep(2.5)
            self.assertEqual(server.output().count("tenants[0].weight"), 1)
            self.assertEqual(self.ask(server, second)[0], 200)
            self.assertEqual(self.ask(server, first)[0], 401)

            # And mended it counts again.
            third = None

            def mend(content):
                content["tenants"][0].pop("weight")
            self.edit(mend)
            third = self.keygen("acme")
            self.wait_for_status(server, third, 200)

    def test_requests_in_flight_are_limited(self):
        self.tenant("small", limits={"requests_in_flight": 1})
        small, free = self.keygen("small"), self.keygen("free")
        with Server("--api-keys", self.file) as server:
            workers = server.worker_pids()
            running = {}
            thread = threading.Thread(
                target=lambda: running.update(result=self.ask(server, small)))
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            try:
                thread.start()
                wait_until(lambda: server.metric("tessera_requests_running") > 0, 10, "a request")
                status, headers, reply = self.ask(server, small)
                self.assertEqual(status, 429)
                self.assertIn("requests_in_flight", reply["error"]["message"])
                self.assertGreaterEqual(int(headers["Retry-After"]), 1)
            finally:
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
            thread.join(timeout=60)
            self.assertEqual(running["result"][0], 200)
            self.assertEqual(self.ask(server, small)[0], 200)
            self.assertEqual(self.ask(server, free)[0], 200)
            self.assertEqual(server.metric("tessera_tenant_refusals_total", tenant="small",
                                           limit="requests_in_flight"), 1)

    def test_tokens_per_minute_are_limited_and_retry_after_is_right(self):
        self.tenant("small", limits={"tokens_per_minute": 600})
        small, free = self.keygen("small"), self.keygen("free")
        with Server("--api-keys", self.file) as server:
            for _ in range(200):
                status, headers, reply = self.ask(server, small, max_tokens=40)
                if status != 200:
                    break
            self.assertEqual(status, 429)
            self.assertIn("tokens_per_minute", reply["error"]["message"])
            wait = int(headers["Retry-After"])
            self.assertGreaterEqual(wait, 1)
            self.assertLessEqual(wait, 10)  # prompt and 40 tokens at ten tokens a second
            self.assertEqual(self.ask(server, free, max_tokens=40)[0], 200)
            time.sleep(wait)
            self.assertEqual(self.ask(server, small, max_tokens=40)[0], 200)


class OpenTest(unittest.TestCase):
    def test_loopback_needs_no_key_and_says_nothing(self):
        with Server() as server:
            self.assertEqual(server.chat(QUESTION), ANSWER)
            self.assertNotIn("NO API KEYS", server.output())

    def test_other_addresses_are_warned_about(self):
        with Server("--host", "0.0.0.0") as server:
            self.assertIn("NO API KEYS", server.output())
            self.assertIn("--api-keys", server.output())

    def test_a_key_file_that_is_not_there_or_wrong_ends_the_start(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "keys.json"
            for content, expected in ((None, "cannot be opened"),
                                      ('{"tenants": [],\n "kees": []}', "line 2: kees")):
                if content is not None:
                    path.write_text(content)
                with Process("tessera", "serve", "--model", harness.DEMO_MODEL, "--http-port", "0",
                             "--grpc-port", "0", "--health-port", "0", "--api-keys",
                             path) as serve:
                    self.assertNotEqual(serve.wait(), 0)
                    self.assertIn(str(path), serve.output())
                    self.assertIn(expected, serve.output())


if __name__ == "__main__":
    harness.run_tests()
