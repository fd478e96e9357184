"""Counters against what clients were told, and against each other: finished, aborted and refused requests are in all of
them or in none. And vLLM's names say what ours say.
"""

import concurrent.futures
import os
import re
import signal
import subprocess
import time
import unittest

import harness
from harness import Server, wait_until

REFERENCE = harness.ROOT / "coordinator/telemetry/METRICS.md"


def buckets(scrape, name):
    """{upper bound: count} of a histogram, over all its series."""
    found = {}
    for line in scrape.lines:
        match = re.match(re.escape(name) + r'_bucket\{.*le="([^"]+)"\} (\S+)$', line)
        if match:
            found[match.group(1)] = found.get(match.group(1), 0) + float(match.group(2))
    return found


class MetricsTest(unittest.TestCase):
    def finish_some(self, server):
        """Requests that are answered to the end; the sum of the usages that their clients are told."""
        bodies = [{"prompt": "Tessera is " * (1 + 9 * (i % 3)) + str(i % 2), "max_tokens": 10 + 7 * i, "ignore_eos": True,
                   "temperature": 0.9, "seed": i} for i in range(12)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(lambda body: server.post("/v1/completions", body), bodies))
        self.assertEqual([status for status, _ in replies], [200] * len(bodies))
        usages = [reply["usage"] for _, reply in replies]
        return {"requests": len(usages),
                "prompt": sum(usage["prompt_tokens"] for usage in usages),
                "cached": sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages),
                "output": sum(usage["completion_tokens"] for usage in usages)}

    def abort_some(self, server):
        for _ in range(5):
            body = {"prompt": "Tessera is", "max_tokens": 700, "ignore_eos": True, "stream": True}
            with server.send("/v1/completions", body) as connection:
                connection.recv(1000)
        wait_until(lambda: server.metric("tessera_requests_total", finish_reason="cancelled") == 5, 20, "the cancels")

    def refuse_some(self, server):
        """Ranks that stand still, and more requests than may wait."""
        workers = server.worker_pids()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            with concurrent.futures.ThreadPoolExecutor(10) as pool:
                replies = [pool.submit(server.post, "/v1/completions", {"prompt": "a", "max_tokens": 5, "ignore_eos": True})
                           for _ in range(10)]
                wait_until(lambda: sum(reply.done() for reply in replies) >= 4, 20, "refusals")
                self.assertGreater(server.metric("tessera_oldest_waiting_seconds"), 0)
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
                statuses = [reply.result()[0] for reply in replies]
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        self.assertLessEqual(set(statuses), {200, 429})
        return statuses.count(200), statuses.count(429)

    def test_every_request_is_in_every_counter(self):
        # Targets that no answer misses and every answer misses: then all of them are in one place.
        for targets, met in (("0", "true"), ("0.001", "false")):
            with Server("--tp", "2", "--rows-max", "4", "--waiting-max", "2", "--slo-ttft-ms", targets,
                        "--slo-tpot-ms", targets) as server:
                self.one_life(server, met)

    def one_life(self, server, met):
        told = {"requests": 0, "prompt": 0, "cached": 0, "output": 0}
        for number in range(12):  # one by one: only two may wait
            body = {"prompt": "Tessera is " * (1 + 9 * (number % 3)), "max_tokens": 5 + 3 * number, "ignore_eos": True}
            status, reply = server.post("/v1/completions", body)
            self.assertEqual(status, 200, reply)
            usage = reply["usage"]
            told["requests"] += 1
            told["prompt"] += usage["prompt_tokens"]
            told["cached"] += usage["prompt_tokens_details"]["cached_tokens"]
            told["output"] += usage["completion_tokens"]
        self.assertGreater(told["cached"], 0)
        now = server.scrape()
        self.assertEqual(now.sum("tessera_prompt_tokens_total"), told["prompt"])
        self.assertEqual(now.sum("tessera_cached_prompt_tokens_total"), told["cached"])
        self.assertEqual(now.sum("tessera_generation_tokens_total"), told["output"])
        # A prompt's last token and every token but the last are computed; what was computed past an end is overrun.
        # The answer is out before the engine's turn ends, in which its sums are shown.
        computed = told["prompt"] - told["cached"] + told["output"] - told["requests"]
        wait_until(lambda: server.metric("tessera_computed_tokens_total") -
                   server.metric("tessera_overrun_tokens_total") == computed, 5, f"{computed} computed tokens")
        now = server.scrape()
        self.assertEqual(now.sum("tessera_request_computed_prompt_tokens_sum"), told["prompt"] - told["cached"])

        self.abort_some(server)
        served, refused = self.refuse_some(server)
        self.assertGreater(refused, 0)
        wait_until(lambda: server.metric("tessera_requests_running") == 0, 20, "the end")
        now = server.scrape()
        complete = told["requests"] + served
        ended = {reason: now.sum("tessera_requests_total", finish_reason=reason)
                 for reason in ("stop", "length", "cancelled", "deadline", "rejected", "error")}
        self.assertEqual(ended, {"stop": 0, "length": complete, "cancelled": 5, "deadline": 0, "rejected": refused,
                                 "error": 0})
        for reason, count in ended.items():
            if count:
                self.assertEqual(now.sum("tessera_tenant_requests_total", finish_reason=reason), count)
        self.assertEqual(now.sum("tessera_admission_rejections_total"), refused)
        self.assertEqual(now.sum("tessera_tenant_generation_tokens_total"), now.sum("tessera_generation_tokens_total"))
        self.assertEqual(now.sum("tessera_tenant_prompt_tokens_total"), now.sum("tessera_prompt_tokens_total"))
        # The aborted ones too.
        self.assertEqual(now.sum("tessera_request_generation_tokens_sum"), now.sum("tessera_generation_tokens_total"))
        for name in ("e2e_request_latency_seconds", "request_prompt_tokens", "request_choices"):
            self.assertEqual(now.sum(f"tessera_{name}_count"), complete + 5)
        # Good requests: aborted ones are not counted in all, refused ones have missed it.
        self.assertEqual(now.sum("tessera_requests_slo_total", slo="all", met="false"),
                         refused + (complete if met == "false" else 0))
        self.assertEqual(now.sum("tessera_requests_slo_total", slo="all"), complete + refused)
        # An aborted one has a time per token if it came to two of them; two that come at once take no time.
        self.assertIn(now.sum("tessera_requests_slo_total", slo="tpot"), range(complete, complete + 6))
        first_tokens = now.sum("tessera_requests_slo_total", slo="ttft") - refused
        self.assertEqual(first_tokens, now.sum("tessera_time_to_first_token_seconds_count"))
        self.assertEqual(now.sum("tessera_requests_slo_total", slo="ttft", met=met),
                         first_tokens + (refused if met == "false" else 0))

    def test_vllm_names_say_what_ours_say(self):
        rows = re.findall(r"^\| `(vllm:\w+)` \| `(tessera_\w+)` \|", REFERENCE.read_text(), re.M)
        self.assertGreaterEqual(len(rows), 28)
        with Server("--tp", "2", "--metrics-compat", "vllm") as server:
            self.finish_some(server)
            self.abort_some(server)
            time.sleep(1.5)  # nothing moves any more
            now = server.scrape()
            types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", server.request("GET", "/metrics")[2], re.M))
            for alias, source in rows:
                with self.subTest(alias=alias):
                    self.assertEqual(types[alias], types[source])
                    lines = [line for line in now.lines if line.startswith(alias)]
                    self.assertTrue(all('engine="0"' in line and f'model_name="{harness.DEMO_MODEL.name}"' in line
                                        for line in lines))
                    if alias == "vllm:cache_config_info":
                        blocks = now.sum("tessera_kv_cache_blocks", kv_group="0")
                        self.assertEqual(now.sum(alias, block_size="16", num_gpu_blocks=f"{blocks:.0f}"), 1)
                    elif types[alias] == "histogram":
                        ours, theirs = buckets(now, source), buckets(now, alias)
                        self.assertEqual(theirs, {bound: ours[bound] for bound in theirs})
                        for part in ("_sum", "_count"):
                            self.assertEqual(now.sum(alias + part), now.sum(source + part))
                    else:
                        self.assertEqual(now.sum(alias), now.sum(source))
            self.assertEqual(now.sum("vllm:request_success_total", finished_reason="abort"), 5)
            self.assertEqual(now.sum("vllm:request_success_total", finished_reason="length"), 12)

    def test_the_reference_is_printed(self):
        printed = subprocess.run([harness.BIN / "tessera-coordinator", "--metrics-reference"], check=True,
                                 capture_output=True, text=True, timeout=30)
        self.assertEqual(printed.stdout, REFERENCE.read_text())

    def test_without_the_flag_there_are_none(self):
        with Server() as server:
            self.assertNotIn("vllm:", server.request("GET", "/metrics")[2])


if __name__ == "__main__":
    harness.run_tests()
