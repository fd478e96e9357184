"""The chart against the programs: every flag it passes is one of theirs, and the memory plan of every example holds.

    programs_test.py BIN      the folder with tessera, tessera-coordinator and tessera-worker

models/ has the published config.json of each example's model, without weights: all that a memory plan needs.
"""

import json
import pathlib
import re
import subprocess
import sys
import unittest

import yaml

from rendering import CHART, EVERYTHING, EXAMPLES, REFUSED, objects, pod_templates

BIN = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "build/release/bin")
MODELS = pathlib.Path(__file__).with_name("models")
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def bytes_of(size):
    number, unit = re.match(r"([0-9.]+) ?([KMGT]?i?B)", size).groups()
    return float(number) * UNITS[unit]


def help_of(program, *command):
    return subprocess.run([BIN / program, *command, "--help"], capture_output=True, text=True, check=True).stdout


def inspect(example, values, memory=(), more=()):
    """What `tessera inspect` prints, asked as the example's comment says, with the example's own limits."""
    model, *flags = re.search(r"inspect: (.+)", example.read_text()).group(1).split()
    if flags[flags.index("--tp") + 1] != str(values.get("parallel", {}).get("tensor", 1)):
        raise AssertionError("the comment's --tp is not that of the values")
    if memory:
        place = flags.index("--gpu")
        flags[place:place + 2] = memory
    engine = values["engine"]
    flags += ["--tokens-max", str(engine.get("tokensMax", 2048)), "--rows-max", str(engine.get("rowsMax", 256)),
              "--context-max", str(engine["contextMax"]), *more]
    return subprocess.run([BIN / "tessera", "inspect", MODELS / model, *flags], capture_output=True, text=True).stdout


def part(plan, name):
    return bytes_of(re.search(rf"^{name}\s+([0-9.]+ \w+)", plan, re.M).group(1))


def sixteen_bit_rest(example, tp):
    """Bytes per rank that stay bfloat16 beside float8 layers: embedding, head, and the latent attention's projections."""
    config = json.loads((MODELS / re.search(r"inspect: (\S+)", example.read_text()).group(1) / "config.json").read_text())
    hidden = config["hidden_size"]
    elements = 2 * config["vocab_size"] * hidden / tp
    if "kv_lora_rank" in config:
        heads, q, kv = config["num_attention_heads"], config["q_lora_rank"], config["kv_lora_rank"]
        rope, nope = config["qk_rope_head_dim"], config["qk_nope_head_dim"]
        whole = hidden * (q + kv + rope)
        cut = heads * (q * (nope + rope) + kv * (nope + config["v_head_dim"])) / tp
        elements += config["num_hidden_layers"] * (whole + cut)
    return 2 * elements


class FlagsTest(unittest.TestCase):
    def test_every_flag_is_known(self):
        seen = set()
        for values in [None, EVERYTHING, *[path for path in EXAMPLES if path.name not in REFUSED]]:
            for what, _, _, pod in pod_templates(objects(values)):
                for container in pod["containers"]:
                    program = pathlib.Path(container["command"][0]).name
                    if not program.startswith("tessera"):
                        continue
                    known = help_of(program, *container["command"][1:])
                    for argument in container["args"]:
                        flag = argument.split("=")[0]
                        seen.add((program, flag))
                        self.assertRegex(known, rf"(?m)^\s+(-\w,)?{flag}\b", f"{what}: {program} has no {flag}")
        self.assertGreater(len(seen), 35)

    def test_the_coordinator_takes_the_values(self):
        """What is out of range it says before it looks at the model, which is not there."""
        for values in [None, EVERYTHING, *[path for path in EXAMPLES if path.name not in REFUSED]]:
            found = objects(values)
            container = found["StatefulSet", "demo-tessera-coordinator"]["spec"]["template"]["spec"]["containers"][0]
            arguments = [one if not one.startswith("--model=") else "--model=m=/nonexistent/model" for one in container["args"]]
            done = subprocess.run([BIN / "tessera-coordinator", *arguments], capture_output=True, text=True, timeout=30)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("/nonexistent/model", done.stderr)


class PlanTest(unittest.TestCase):
    def plan(self, example):
        """(budget, weights, everything else) in bytes per rank, KV cache as the example sets it."""
        values = yaml.safe_load(example.read_text())
        tp = values.get("parallel", {}).get("tensor", 1)
        fp8 = values["engine"].get("quantize") == "fp8"
        knows_fp8 = "--quantize" in help_of("tessera", "inspect")
        # Asked without a bound, so that there is a plan; the bound is the GPU's, and 5 % of it stay in reserve.
        plan = inspect(example, values, ["--memory", "1TiB"], ["--quantize", "fp8"] if fp8 and knows_fp8 else [])
        budget = bytes_of(re.search(r"^tp \d+, (\S+ \S+) per rank", inspect(example, values), re.M).group(1))
        weights = part(plan, "weights")
        if fp8 and not knows_fp8:
            rest = sixteen_bit_rest(example, tp)
            weights = rest + (weights - rest) / 2 * 1.01  # 1 %: more than a scale per row is
        kv = bytes_of(values["engine"]["kvMemory"])
        context = values["engine"]["contextMax"] * bytes_of(re.search(r"KV cache .*, (\S+ \S+) per token", plan).group(1))
        self.assertGreaterEqual(kv, context, "not one whole context fits")
        return budget, weights, kv + part(plan, "activations") + 0.05 * budget

    def test_every_gpu_example_fits_its_gpu(self):
        planned = 0
        for example in EXAMPLES:
            if example.name in REFUSED or "device: cuda" not in example.read_text():
                continue
            with self.subTest(example=example.name):
                budget, weights, rest = self.plan(example)
                print(f"{example.name}: weights {weights / 2**30:.1f} GiB, with all else {(weights + rest) / 2**30:.1f} of "
                      f"{budget / 2**30:.1f} GiB per rank")
                self.assertLessEqual(weights + rest, budget)
                self.assertGreater(weights + rest, 0.75 * budget, "most of the GPU lies idle: raise engine.kvMemory")
                planned += 1
        self.assertEqual(planned, 4)

    def test_two_stages_are_what_bf16_405b_needs(self):
        (example,) = [path for path in EXAMPLES if path.name in REFUSED]
        values = yaml.safe_load(example.read_text())
        self.assertIn("does not fit", inspect(example, values))
        budget, weights, rest = self.plan(example)
        self.assertGreater(weights + rest, budget)
        self.assertLessEqual(weights / values["parallel"]["pipeline"] + rest, budget)

    def test_the_demo_fits_its_containers(self):
        values = yaml.safe_load((CHART / "examples/demo-cpu.yaml").read_text())
        self.assertLess(bytes_of(values["engine"]["memory"]), 1536 * 2**20)


if __name__ == "__main__":
    unittest.main()
