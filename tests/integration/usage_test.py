"""Usage and cost on real processes: what is written down, told to clients, summed up and counted is the same."""

import collections
import csv
import http.client
import io
import json
import os
import pathlib
import re
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

QUESTION, ANSWER = harness.demo_questions()[0]
# The devices of the test cost a cent per second, and 36 kW at a price of 1 another.
PRICES = """
currency: USD
idle: usage
devices:
  - name: "cpu*"
    hour: 36
    power: {rated_watts: 36000, kilowatt_hour: 1}
"""
API_PRICES = """
currency: USD
models:
  - {name: somebody, input: 2, cached: 1, output: 8}
"""
SECOND = 0.02  # what a GPU-second costs by that


class UsageTest(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="tessera-usage-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.usage = self.directory / "usage"
        self.keys = self.directory / "keys.json"
        self.prices = self.directory / "prices.yaml"
        self.prices.write_text(PRICES)
        (self.directory / "api.yaml").write_text(API_PRICES)

    def flags(self):
        return ["--usage-dir", self.usage, "--price-file", self.prices, "--api-prices",
                self.directory / "api.yaml", "--admin-port", "0"]

    def keygen(self, tenant):
        made = subprocess.run(
            [harness.BIN / "tessera", "keygen", "--tenant", tenant, "--file", self.keys],
            check=True, capture_output=True, text=True, timeout=30)
        return made.stdout.strip()

    def cli(self, *arguments, code=0):
        """stdout of `tessera usage`."""
        run = subprocess.run([harness.BIN / "tessera", "usage", *map(str, arguments)],
                             capture_output=True, text=True, timeout=60)
        self.assertEqual(run.returncode, code, run.stderr)
        return run.stdout if code == 0 else run.stderr

    def records(self):
        lines = []
        for file in sorted(self.usage.glob("*.jsonl")):
            lines += [json.loads(line) for line in file.read_text().splitlines()]
        return lines

    def admin(self, server, path):
        connection = http.client.HTTPConnection(server.addresses["admin"], timeout=60)
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        self.assertEqual(response.status, 200, text)
        return json.loads(text)

    def ask(self, server, key=None, **parameters):
        """(headers, reply) of one chat completion."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, **parameters}
        status, headers, text = server.request("POST", "/v1/chat/completions", body, headers)
        self.assertEqual(status, 200, text)
        return headers, json.loads(text)

    def wait_for_records(self, count):
        wait_until(lambda: len(self.records()) >= count, 20, f"{count} usage records")
        return self.records()

    def check_record(self, record):
        """What holds for every record of these tests."""
        seconds = record["gpu_seconds"]
        billed = seconds["prefill"] + seconds["decode"]
        if record["reason"] == "error":
            billed = 0
        self.assertAlmostEqual(record["cost"], billed * SECOND, delta=1e-9 + 1e-6 * billed)
        self.assertAlmostEqual(record["energy_joules"], 36000 * sum(seconds.values()), delta=1e-3)
        self.assertTrue(record["device"].startswith("cpu "), record["device"])
        self.assertLessEqual(record["cached_tokens"], record["prompt_tokens"])

    def test_records_headers_sums_and_metrics_agree(self):
        keys = {tenant: self.keygen(tenant) for tenant in ("acme", "beta")}
        told = collections.defaultdict(float)
        with Server(*self.flags(), "--api-keys", self.keys) as server:
            for tenant, count in (("acme", 3), ("beta", 2)):
                for _ in range(count):
                    headers, reply = self.ask(server, keys[tenant], include_cost=True)
                    self.assertEqual(reply["choices"][0]["message"]["content"], ANSWER)
                    cost = reply["usage"]["cost"]
                    self.assertEqual(cost["currency"], "USD")
                    self.assertGreater(cost["total"], 0)
                    self.assertAlmostEqual(float(headers["x-tessera-cost"]), cost["total"], delta=1e-11)
                    self.assertGreater(cost["gpu_seconds"]["decode"], 0)
                    told[tenant] += cost["total"]
            records = self.wait_for_records(5)
            self.assertEqual(len(records), 5)
            self.assertEqual(len({record["entry"] for record in records}), 5)
            for record in records:
                self.check_record(record)
                self.assertEqual(record["reason"], "stop")
            by_tenant = collections.defaultdict(float)
            for record in records:
                by_tenant[record["tenant"]] += record["cost"]
            for tenant in keys:
                self.assertAlmostEqual(by_tenant[tenant], told[tenant], delta=1e-9)

            # The same from the files, by the command line and by the admin API, in every format.
            rows = {row["tenant"]: row for row in json.loads(
                self.cli("--dir", self.usage, "--format", "json"))["rows"]}
            asked = {row["tenant"]: row for row in self.admin(
                server, "/usage?by=tenant&since=24h")["rows"]}
            self.assertEqual(rows, asked)
            for tenant in keys:
                self.assertAlmostEqual(rows[tenant]["cost"], told[tenant], delta=1e-9)
            self.assertEqual(rows["acme"]["requests"], 3)
            table = self.cli("--by", "tenant", "--since", "24h", "--admin",
                             f"http://{server.addresses['admin']}")
            self.assertRegex(table, r"(?m)^acme +3 ")
            self.assertRegex(table, r"(?m)^all +5 ")
            parsed = list(csv.DictReader(io.StringIO(
                self.cli("--dir", self.usage, "--format", "csv", "--by", "day,tenant"))))
            self.assertEqual([row["tenant"] for row in parsed], ["acme", "beta"])
            self.assertAlmostEqual(float(parsed[0]["cost"]), told["acme"], delta=1e-9)
            self.assertEqual(self.cli("--dir", self.usage, "--since", "0s"), "no usage in this time\n")

            # What Prometheus counts is what was written down.
            for tenant in keys:
                mine = [record for record in records if record["tenant"] == tenant]
                self.assertEqual(server.metric("tessera_tenant_requests_total", tenant=tenant), len(mine))
            self.assertEqual(server.metric("tessera_prompt_tokens_total"),
                             sum(record["prompt_tokens"] for record in records))
            self.assertEqual(server.metric("tessera_generation_tokens_total"),
                             sum(record["output_tokens"] for record in records))
            for kind in ("prefill", "decode"):
                used = sum(record["gpu_seconds"][kind] for record in records)
                wait_until(lambda: abs(self.counted_seconds(server, kind) - used) <= 1e-6 * (1 + used),
                           10, f"the metric of {kind} seconds to be {used}")
            self.check_comparison(server, records)

    def counted_seconds(self, server, kind):
        """Of the metric, 0 before it is there: it is brought up to date once a second."""
        try:
            return server.metric("tessera_gpu_seconds_total", kind=kind)
        except AssertionError:
            return 0

    def check_comparison(self, server, records):
        group = self.admin(server, "/groups")["models"][0]
        # Idle time is told by the next heartbeat.
        self.assertAlmostEqual(sum(group["gpu_seconds"].values()), group["wall_gpu_seconds"],
                               delta=0.005 * group["wall_gpu_seconds"] + 0.8)
        self.assertGreater(group["gpu_seconds"]["idle_none"], 0)
        comparison = self.admin(server, "/comparison")
        model = comparison["models"][0]
        self.assertEqual(model["requests"], len(records))
        self.assertAlmostEqual(model["cost"], sum(record["cost"] for record in records), delta=1e-9)
        self.assertGreater(model["idle_cost"], 0)
        rates = model["per_million"]
        self.assertGreater(rates["blended_with_idle"], rates["blended"])
        self.assertEqual(model["apis"][0]["name"], "somebody")
        self.assertAlmostEqual(sum(tenant["idle_share"] for tenant in comparison["tenants"]),
                               model["idle_cost"], delta=0.02)
        self.assertEqual(self.admin(server, "/prices")["models"][0]["hour"], 36)

    def test_every_way_to_end_leaves_one_record(self):
        with Server(*self.flags()) as server:
            # Streams and gRPC tell the cost at their end.
            events = list(server.stream("/v1/completions", {"prompt": "A worker", "max_tokens": 4,
                                                            "include_cost": True}))
            self.assertGreater(events[-1]["usage"]["cost"]["total"], 0)
            with harness.Stubs() as stubs, grpc.insecure_channel(server.addresses["grpc"]) as channel:
                stub = stubs.v1_grpc.TesseraStub(channel)
                call = stub.Generate(stubs.v1.GenerateRequest(text="A worker"), timeout=60,
                                     metadata=[("x-tessera-include-cost", "true")])
                usage = [message.usage for message in call if message.HasField("usage")][0]
                trailers = dict(call.trailing_metadata())
                self.assertAlmostEqual(float(trailers["x-tessera-cost"]), usage.cost.total, delta=1e-11)
            # One goes away in the middle, one has no time.
            connection = server.send("/v1/completions", {
                "prompt": "The coordinator", "max_tokens": 400, "ignore_eos": True, "stream": True})
            self.assertIn(b"200", connection.recv(200))
            connection.close()
            status, _, _ = server.request(
                "POST", "/v1/completions",
                {"prompt": "The coordinator", "max_tokens": 400, "ignore_eos": True},
                {"x-request-timeout-ms": "150"})
            self.assertEqual(status, 504)
            records = self.wait_for_records(4)
            reasons = collections.Counter(record["reason"] for record in records)
            self.assertEqual(len(records), 4)
            self.assertEqual(reasons["cancelled"], 1, reasons)
            self.assertEqual(reasons["deadline"], 1, reasons)
            for record in records:
                self.check_record(record)
            by_id = {record["id"]: record for record in records}
            self.assertAlmostEqual(by_id[events[-1]["id"]]["cost"],
                                   events[-1]["usage"]["cost"]["total"], delta=1e-9)
            # A rank dies: the answer is the same, and what it took twice is not paid for.
            before = by_id[events[-1]["id"]]
            running = {}
            thread = threading.Thread(target=lambda: running.update(result=self.ask(server)))
            thread.start()
            os.kill(server.worker_pids()[0], signal.SIGKILL)
            thread.join(timeout=120)
            self.assertEqual(running["result"][1]["choices"][0]["message"]["content"], ANSWER)
            self.assertEqual(len(self.wait_for_records(5)), 5)
            self.check_record(self.records()[-1])
            self.assertGreater(before["cost"], 0)
        # And the end of the server loses none.
        self.assertEqual(len(self.records()), 5)

    def test_the_log_goes_on_after_a_crash(self):
        with Server(*self.flags(), "--listen", "127.0.0.1:0", program=("tessera-coordinator",),
                    wait=False) as server:
            wait_until(lambda: "workers 127.0.0.1:" in server.output(), 20, "the log line")
            second = Process("tessera-coordinator", "--model", harness.DEMO_MODEL, "--http-port", "0",
                             "--grpc-port", "0", "--health-port", "0", "--listen", "127.0.0.1:0",
                             "--usage-dir", self.usage)
            with second:
                self.assertNotEqual(second.wait(), 0)
                self.assertIn("another process writes to the usage directory", second.output())
            server.process.kill()
            server.process.wait()
        with Server(*self.flags()) as server:
            self.ask(server)
            self.wait_for_records(1)
            os.kill(server.coordinator_pid(), signal.SIGKILL)
            server.wait()
        file = sorted(self.usage.glob("*.jsonl"))[-1]
        whole = file.read_text()
        file.write_text(whole + whole[:100])
        with Server(*self.flags()) as server:
            wait_until(lambda: "no whole line" in server.output(), 10, "word of the torn line")
            self.ask(server)
            records = self.wait_for_records(2)
            self.assertEqual(len({record["entry"] for record in records}), 2)
            self.assertEqual(len({record["id"] for record in records}), 2)

    def test_prices_change_while_requests_run(self):
        with Server(*self.flags()) as server:
            self.ask(server)
            self.prices.write_text(PRICES.replace("hour: 36", "hour: minus"))
            wait_until(lambda: re.search(r"prices\.yaml, line 6: devices\[0\]\.hour is `minus`",
                                         server.output()), 15, "the complaint about the price file")
            self.assertEqual(self.ask(server)[0]["x-tessera-cost-currency"], "USD")
            self.prices.write_text(PRICES.replace("USD", "EUR"))
            wait_until(lambda: self.ask(server)[0]["x-tessera-cost-currency"] == "EUR", 15,
                       "the new currency")
            wait_until(lambda: len({row["currency"] for row in self.admin(server, "/usage")["rows"]})
                       == 2, 15, "rows of two currencies")

    def test_without_flags_nothing_is_kept_and_nothing_made_up(self):
        with Server() as server:
            headers, reply = self.ask(server, include_cost=True)
            self.assertEqual(headers["x-tessera-cost-currency"], "none")
            self.assertEqual(float(headers["x-tessera-cost"]), 0)
            self.assertGreater(float(headers["x-tessera-gpu-seconds"]), 0)
            self.assertEqual(reply["usage"]["cost"]["currency"], "none")
            self.assertNotIn("admin", server.addresses)

    def test_clear_errors(self):
        self.assertIn("--dir", self.cli(code=106))
        self.assertIn("nowhere", self.cli("--dir", self.directory / "nowhere", code=1))
        self.assertIn("`since`", self.cli("--dir", self.directory, "--since", "soon", code=1))
        self.assertIn("no answer from http://127.0.0.1:1",
                      self.cli("--admin", "http://127.0.0.1:1", code=1))
        self.prices.write_text("currency: USD\n")
        with Process("tessera", "serve", "--model", harness.DEMO_MODEL, "--http-port", "0",
                     "--grpc-port", "0", "--health-port", "0", "--price-file", self.prices) as serve:
            self.assertNotEqual(serve.wait(), 0)
            self.assertIn("prices.yaml, line 1: the file has no devices", serve.output())
        with Process("tessera", "serve", "--model", harness.DEMO_MODEL, "--http-port", "0",
                     "--grpc-port", "0", "--health-port", "0", "--admin-listen", "0.0.0.0:0") as serve:
            self.assertNotEqual(serve.wait(), 0)
            self.assertIn("--admin-token-file", serve.output())


if __name__ == "__main__":
    harness.run_tests()
