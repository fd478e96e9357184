"""Made-up weights and a rank alone: what measurements of large models run on, from config.json only."""

import json
import pathlib
import re
import shutil
import tempfile
import unittest

import harness
from harness import Process, Server

# Llama-3.1-8B, scaled down.
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 32, "intermediate_size": 896,
    "vocab_size": 4096, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}


class DummyTest(unittest.TestCase):
    def setUp(self):
        self.model = pathlib.Path(tempfile.mkdtemp(prefix="tessera-dummy-"))
        self.addCleanup(shutil.rmtree, self.model)
        (self.model / "config.json").write_text(json.dumps(CONFIG))

    def answer(self, server, prompt):
        body = {"prompt": prompt, "temperature": 0, "max_tokens": 8, "logprobs": 0}
        status, _, text = server.request("POST", "/v1/completions", body)
        self.assertEqual(status, 200, text)
        choice = json.loads(text)["choices"][0]
        self.assertEqual(choice["finish_reason"], "length")
        return choice["logprobs"]["token_logprobs"]

    def test_every_tp_serves_the_same_noise(self):
        answers = []
        for tp in (1, 2):
            with Server("--tp", tp, "--device", "cpu", "--load-format", "dummy", model=self.model) as server:
                answers.append([self.answer(server, "Hello"), self.answer(server, [72, 101, 108, 108, 111])])
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(answers[0][0], answers[0][1], "without a tokenizer a token is a byte")
        self.assertTrue(all(value < 0 for value in answers[0][0]), answers[0][0])

    def test_float8_weights_fit_into_less(self):
        said = []
        for quantize in ("none", "fp8"):
            with Server("--device", "cpu", "--load-format", "dummy", "--quantize", quantize, "--verbose",
                        model=self.model) as server:
                self.assertEqual(len(self.answer(server, "Hello")), 8)
                said.append(int(re.search(r"ready: weights (\d+) bytes", server.output()).group(1)))
        self.assertLess(said[1], 0.8 * said[0])

    def test_one_rank_of_eight_alone(self):
        with Server("--tp", "8", "--comm", "solo", "--device", "cpu", "--load-format", "dummy", "--verbose",
                    model=self.model) as server:
            self.assertEqual(len(self.answer(server, "Hello")), 8)
            said = server.output()
            self.assertIn("rank 0 of 8 runs alone", said)
            self.assertIn("answers are noise", said)

    def test_what_does_not_fit_together_is_refused(self):
        for flags, words in ((("--comm", "solo", "--load-format", "dummy"), "--tp 2, 4 or 8"),
                             ((), "model.safetensors")):
            with Process("tessera", "serve", "--model", self.model, "--device", "cpu", "--http-port", "0",
                         "--grpc-port", "0", "--health-port", "0", *flags) as process:
                self.assertNotEqual(process.wait(), 0)
                self.assertIn(words, process.output())


if __name__ == "__main__":
    harness.run_tests()
