"""The same request gets the same bytes, whatever happens around it and to it.

Each request is first answered alone by one rank without prefix cache and overlap. Then again after a prefix hit, in a
crowd, as a stream, on two ranks, in a KV cache so small that sequences give way to each other, and while a rank is
killed: text, tokens, log probabilities and usage must be equal, byte for byte.
"""

import concurrent.futures
import json
import os
import random
import signal
import time
import unittest

import harness
from harness import Server, sized

ROUNDS = sized(1, 10)
SEED = int(os.environ.get("TESSERA_TEST_SEED", "1"))
BLOCK_TOKENS = 16
RESTARTS_MAX = 5  # of one rank that `tessera serve` takes part in
WAVE_SECONDS = 0.3  # from a crowd's first half to the second
PREFIX = [100 + 7 * i % 1800 for i in range(10 * BLOCK_TOKENS)]  # what most prompts begin with
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
NOT_STREAMED = ("best_of", "prompt_logprobs")


def requests():
    """{name: (path, body)}: every parameter that reaches the sampler or decides where an answer ends."""
    parameters = {
        "greedy": {"temperature": 0},
        "seeded": {},
        "cut": {"top_k": 40, "top_p": 0.9, "min_p": 0.02, "temperature": 1.3},
        "penalties": {"presence_penalty": 0.7, "frequency_penalty": 0.9, "repetition_penalty": 1.2},
        "greedy penalties": {"temperature": 0, "frequency_penalty": 1.5},
        "bias": {"logit_bias": {"200": 4, "300": -100}, "banned_token_ids": [301, 302]},
        "allowed": {"allowed_token_ids": list(range(200, 1200, 3))},
        "bad words": {"temperature": 0, "bad_words": ["a"], "ignore_eos": False, "min_tokens": 20},
        "choices": {"n": 3},
        "choices with penalties": {"n": 3, "frequency_penalty": 0.5, "logprobs": 1},
        "best of": {"best_of": 4, "n": 2},
        "logprobs": {"logprobs": 5},
        "prompt logprobs": {"temperature": 0, "prompt_logprobs": 2},
        "echo": {"temperature": 0, "echo": True, "logprobs": 1, "max_tokens": 10},
        "stop strings": {"temperature": 0, "stop": [" the", " of"], "min_tokens": 5},
        "stop in three": {"n": 3, "stop": [" a", "."], "include_stop_str_in_output": True},
        "stop tokens": {"stop_token_ids": list(range(300, 900, 10))},
        "end tokens": {"ignore_eos": False, "max_tokens": 200},
    }
    draws = random.Random(SEED)
    named = {}
    for i, (name, own) in enumerate(parameters.items()):
        suffix = [draws.randrange(100, 2000) for _ in range(1 + 5 * i)]
        named[name] = (COMPLETIONS, {"prompt": PREFIX + suffix, "max_tokens": 60 + 5 * i,
                                     "ignore_eos": True, "seed": i, "temperature": 1, **own})
    for i, (question, _) in enumerate(harness.demo_questions()[:4]):
        messages = [{"role": "system", "content": "You answer questions about serving language models on a "
                     "cluster, in one or two sentences, and only from what you know."},
                    {"role": "user", "content": question}]
        named[f"chat {i}"] = (CHAT, {"messages": messages, "seed": i, "temperature": 1, "logprobs": True,
                                     "top_logprobs": 2, "max_tokens": 60, "n": 1 + i % 2})
    return named


def without_names(reply):
    """(what must be equal: all but the reply's id, time and shape; the tokens that the prefix cache saved)."""
    kept = {key: value for key, value in reply.items() if key not in ("id", "created", "object")}
    for choice in kept["choices"]:
        choice.get("message", {}).pop("refusal", None)  # null, and not there in streams
    cached = kept["usage"]["prompt_tokens_details"].pop("cached_tokens")
    return kept, cached


def ask(server, path, body):
    """(what must be equal, cached tokens)."""
    status, reply = server.post(path, body)
    if status != 200:
        raise AssertionError(f"{status}: {reply} to {body}")
    return without_names(reply)


def joined(first, second):
    """Two pieces of one answer: texts and lists one after the other, objects field by field."""
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, dict):
        return {key: joined(first.get(key), second.get(key)) for key in {**first, **second}}
    return first + second


def ask_in_pieces(server, path, body):
    """The same as a stream, put together."""
    choices, whole = {}, {}
    for chunk in server.stream(path, {**body, "stream_options": {"include_usage": True}}):
        for piece in chunk.pop("choices"):
            index = piece.pop("index")
            if "delta" in piece:
                piece["message"] = piece.pop("delta")
            choices[index] = joined(choices.get(index), piece)
        whole.update({key: value for key, value in chunk.items() if value is not None})
    whole["choices"] = [{"index": index, **choices[index]} for index in sorted(choices)]
    return without_names(whole)


class DeterminismTest(unittest.TestCase):
    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        cls.requests = requests()
        plain = ("--tp", "1", "--threads", "1", "--no-prefix-cache", "--plans-in-flight", "1")
        with Server(*plain) as server:
            cls.expected = {name: ask(server, *request)[0] for name, request in cls.requests.items()}
            assert server.metric("tessera_prefix_cache_hits_total") == 0

    def test_the_requests_tell_differences(self):
        """What they ask for shows in their answers; else equal bytes would say little."""
        answers = {name: json.dumps(answer["choices"]) for name, answer in self.expected.items()}
        self.assertEqual(len(set(answers.values())), len(answers))
        for name in ("stop strings", "stop in three", "stop tokens"):
            self.assertIn('"stop"', answers[name], name)
        texts = [choice["text"] for choice in self.expected["choices"]["choices"]]
        self.assertEqual(len(set(texts)), 3, texts)

    def compare(self, name, answer, where):
        expected = self.expected[name]
        if json.dumps(answer, sort_keys=True) != json.dumps(expected, sort_keys=True):
            self.assertEqual(answer, expected, f"{name}, {where}")

    def crowd(self, server, where, in_pieces=False, meanwhile=lambda: None):
        """All requests twice in two waves, of which the second has the higher priority."""
        names = list(self.requests) * 2
        random.Random(f"{SEED} {where}").shuffle(names)
        answers = []

        def one(name, priority):
            path, body = self.requests[name]
            streams = in_pieces and not any(key in body for key in NOT_STREAMED)
            return (ask_in_pieces if streams else ask)(server, path, {**body, "priority": priority})

        with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
            for priority, wave in enumerate((names[::2], names[1::2])):
                time.sleep(WAVE_SECONDS * priority)
                answers += [(name, pool.submit(one, name, priority)) for name in wave]
            meanwhile()
            for name, answer in answers:
                self.compare(name, answer.result(120)[0], where)

    def test_again_in_a_crowd_and_in_pieces(self):
        with Server("--tp", "1") as server:
            for _ in range(2):
                answers = {name: ask(server, *request) for name, request in self.requests.items()}
                for name, (answer, _) in answers.items():
                    self.compare(name, answer, "alone")
            missed = [name for name, (path, _) in self.requests.items()
                      if answers[name][1] < (len(PREFIX) if path == COMPLETIONS else BLOCK_TOKENS)]
            # Prompt positions that are scored must be computed.
            self.assertEqual(missed, ["prompt logprobs", "echo"], "the second time")
            for number in range(ROUNDS):
                self.crowd(server, f"crowd {number}")
                self.crowd(server, f"crowd in pieces {number}", in_pieces=True)
            now = server.scrape()
            self.assertGreater(now.sum("tessera_overrun_tokens_total"), 0, "stops are noticed late")
            hits, queries = (now.sum(f"tessera_prefix_cache_{name}_total") for name in ("hits", "queries"))
            print(f"seed {SEED}: {hits:.0f} of {queries:.0f} prompt tokens from the prefix cache")

    def test_in_a_starved_cache(self):
        with Server("--tp", "1", "--kv-memory", "2MiB", "--chunk-max", "48") as server:
            for number in range(ROUNDS):
                # Answers have been short lately: admission expects no more, and is wrong.
                for _ in range(8):
                    server.post(COMPLETIONS, {"prompt": [9], "max_tokens": 40, "n": 8,
                                              "ignore_eos": True})
                self.crowd(server, f"starved {number}")
                self.crowd(server, f"starved in pieces {number}", in_pieces=True)
            now = server.scrape()
            preempted = now.sum("tessera_preemptions_total")
            print(f"seed {SEED}: {preempted:.0f} preemptions, "
                  f"{now.sum('tessera_recomputed_tokens_total'):.0f} tokens computed again")
            self.assertGreater(preempted, 0)
            self.assertEqual(now.sum("tessera_kv_cache_usage_ratio"), 0)

    def test_on_two_ranks_one_of_which_is_killed(self):
        with Server("--tp", "2", "--threads", "1") as server:
            self.crowd(server, "two ranks")
            for number in range(sized(1, RESTARTS_MAX)):
                self.crowd(server, f"a rank killed {number}", in_pieces=True,
                           meanwhile=lambda: self.kill_a_rank(server, number % 2))
            self.assertGreater(server.metric("tessera_recomputed_tokens_total"), 0)

    def kill_a_rank(self, server, number):
        """As soon as the crowd's tokens flow."""
        begun = server.metric("tessera_generation_tokens_total")
        harness.wait_until(lambda: server.metric("tessera_generation_tokens_total") > begun + 200, 30,
                           "200 tokens")
        victim = server.worker_pids()[number]
        os.kill(victim, signal.SIGKILL)
        harness.wait_until(lambda: victim not in server.worker_pids(), 30, "the rank's end")


if __name__ == "__main__":
    harness.run_tests()
