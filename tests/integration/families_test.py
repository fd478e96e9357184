"""Every family answers through the whole server what the reference answers.

Each golden checkpoint of tests/golden/models is served on two ranks (one, where two do not divide it), as a directory
like any other: with a tokenizer, which the goldens do not carry. All its prompts come at once and several times, so
that they are chunked, batched, hit the prefix cache and give way to each other; greedy tokens must be the golden ones.
Those of longrope have answers that grow beyond the original context.
"""

import concurrent.futures
import json
import pathlib
import shutil
import tempfile
import unittest

import grpc

import harness
from harness import Server

GOLDENS = harness.ROOT / "tests" / "golden" / "models"
TIMES = 3  # that every prompt comes in a wave
SECONDS = 120  # for one answer, on a busy machine


def goldens():
    """{name: golden.json} of all that there have to be; the demo model has tests of its own."""
    names = (GOLDENS / "expected.txt").read_text().split()
    return {name: json.loads((GOLDENS / name / "golden.json").read_text())
            for name in names if name != "demo"}


def write_tokenizer(directory, vocab_size):
    """One word per token. Nothing is tokenized here: prompts are token ids."""
    words = {f"w{token}": token for token in range(vocab_size)}
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None,
                 "decoder": None, "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))


class FamiliesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stubs = harness.Stubs()
        cls.addClassCleanup(cls.stubs.__exit__)

    def generate(self, channel, prompt):
        v1 = self.stubs.v1
        request = v1.GenerateRequest(
            token_ids=v1.TokenIds(ids=prompt["tokens"]),
            sampling=v1.SamplingParams(temperature=0, max_tokens=len(prompt["greedy"]),
                                       ignore_eos=True))
        stub = self.stubs.v1_grpc.TesseraStub(channel)
        tokens = []
        for answer in stub.Generate(request, timeout=SECONDS):
            tokens += answer.token_ids
        return tokens

    def serve(self, name, golden):
        directory = pathlib.Path(tempfile.mkdtemp(prefix=f"tessera-{name}-")) / name
        self.addCleanup(shutil.rmtree, directory.parent, ignore_errors=True)
        shutil.copytree(GOLDENS / name, directory)
        write_tokenizer(directory, golden["vocab_size"])
        tp = max(size for size in golden["tp"] if size <= 2)
        flags = ["--tp", str(tp), "--dtype", "float32", "--chunk-max", "48"]
        with Server(*flags, model=directory) as server, \
                grpc.insecure_channel(server.addresses["grpc"]) as channel, \
                concurrent.futures.ThreadPoolExecutor(16) as clients:
            for wave in range(2):  # the second one finds the first one's blocks
                prompts = golden["prompts"] * TIMES
                answers = list(clients.map(lambda prompt: self.generate(channel, prompt), prompts))
                for prompt, answer in zip(prompts, answers):
                    self.assertEqual(answer, prompt["greedy"],
                                     f"wave {wave}, after {len(prompt['tokens'])} tokens")
            self.assertGreater(server.scrape().sum("tessera_prefix_cache_hits_total"), 0)

    def test_greedy_answers_are_the_references(self):
        served = goldens()
        self.assertGreater(len(served), 30, sorted(served))
        for name, golden in served.items():
            with self.subTest(name):
                self.serve(name, golden)


if __name__ == "__main__":
    harness.run_tests()
