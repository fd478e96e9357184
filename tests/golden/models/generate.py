#!/usr/bin/env python3
"""Writes the model goldens: what Hugging Face transformers computes for small checkpoints.

    pip install -r tests/golden/models/requirements.txt
    python tests/golden/models/generate.py                # every case, minutes on one core
    python tests/golden/models/generate.py --only demo    # one case; after training the demo anew
    python tests/golden/models/generate.py --keep         # from the checkpoints that are there

Per case (cases.py): the checkpoint as an ordinary model directory (random weights; for `demo` the
one in deploy/demo-model), golden.json (prompts, greedy tokens, tolerances, rope frequencies),
logits.f32 and logits.bf16 (raw, little-endian, prompt after prompt, [positions, vocabulary]).

A random model with small weights attends to everything alike and would not notice a wrong rotation
or a wrong head. So query and key are scaled up and a seed is taken only if the median entropy of
attention is below half of uniform, experts are used unevenly, the greedy path is varied, no step of
it is close to a tie, and bfloat16 costs the reference itself little.
"""

import argparse
import collections
import hashlib
import json
import pathlib
import shutil

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer

from cases import CASES
from reference import (entropy_ratio, expert_ratio, forward, generated, greedy, load,
                       num_parameters, random_model, rope_switch, ropes, roughness, save, spread)

HERE = pathlib.Path(__file__).resolve().parent
DEMO = HERE.parents[2] / "deploy" / "demo-model"
REFERENCE_SPREAD_MAX = 3e-5  # between the reference's own ways to compute the same
MARGIN_MIN = 2.5e-3  # of greedy steps, far above the tolerance
DISTINCT_MIN = 16  # different tokens among the greedy ones
ENTROPY_MAX = 0.48
EXPERT_RATIO_MIN = 1.5  # the most wanted expert to the mean, where there are experts
DIVERGENCE_MEAN = 1e-3  # nats; what bfloat16 may cost
SEEDS_MAX = 400

DEMO_QUESTIONS = ["What is Tessera?", "What is tensor parallelism?", "What is the KV cache?",
                  "What does the coordinator do?", "What is a worker?", "What is a KV block?",
                  "Which licence does the demo model have?", "What is continuous batching?",
                  "Hello", "How do I start Tessera?", "What is paged attention?", "What is NCCL?"]


def why_not(case, directory, prompts):
    """Why the checkpoint is a bad witness, or None."""
    model = load(directory, torch.float32)
    ratio = entropy_ratio(model, [p for p in prompts if len(p) > 4])
    if not ratio < ENTROPY_MAX:
        return f"entropy {ratio:.2f}"
    uneven = expert_ratio(model, prompts)
    if 0 < uneven < EXPERT_RATIO_MIN:
        return f"experts {uneven:.2f}"
    paths = [greedy(model, p, case.greedy) for p in prompts]
    varied = min(len(set(tokens)) for tokens, _ in paths)
    if varied < DISTINCT_MIN:
        return f"different tokens {varied}"
    margin = min(m for _, m in paths)
    if margin <= MARGIN_MIN:
        return f"margin {margin:.4f}"
    apart = spread(case, directory, model, prompts)
    if apart >= REFERENCE_SPREAD_MAX:
        return f"spread {apart:.1e}"
    bf16 = load(directory, torch.bfloat16)
    rough = [roughness(forward(model, p), forward(bf16, p)).divergences for p in prompts]
    mean = float(torch.cat(rough).mean())
    return None if mean < 0.9 * DIVERGENCE_MEAN else f"bfloat16 divergence {mean:.1e}"


def make_checkpoint(case, directory):
    """Tries seeds until the model is a good witness; returns its prompts."""
    reasons = collections.Counter()
    for seed in range(SEEDS_MAX):
        shutil.rmtree(directory, ignore_errors=True)
        save(case, random_model(case, seed), directory)
        generator = np.random.default_rng(seed)
        prompts = [generator.integers(3, case.text["vocab_size"], n).tolist()
                   for n in case.prompt_lengths]
        reason = why_not(case, directory, prompts)
        if reason is None:
            return prompts, seed
        reasons[reason.rsplit(" ", 1)[0]] += 1
    raise SystemExit(f"{case.name}: no seed below {SEEDS_MAX} is good enough, {dict(reasons)}; "
                     "change its gains")


def to_bf16_bytes(logits):
    return logits.to(torch.bfloat16).view(torch.int16).numpy().tobytes()


def write_golden(name, directory, prompts, features, tp, keep=None, seed=None, count=64,
                 fp32_tolerance=1e-4):
    """`keep`: only the last so many positions of each prompt."""
    model = load(directory, torch.float32)
    bf16 = load(directory, torch.bfloat16)
    sdpa = load(directory, torch.float32, "sdpa")
    out = HERE / name
    items, f32_bytes, bf16_bytes, rough = [], b"", b"", []
    for tokens in prompts:
        begin = max(0, len(tokens) - keep) if keep else 0
        logits, low = forward(model, tokens)[begin:], forward(bf16, tokens)[begin:]
        rough.append(roughness(logits, low))
        path, margin = greedy(model, tokens, count)
        if rope_switch(model.config):
            assert path == generated(sdpa, tokens, count), f"{name}: its own loop differs"
        items.append(dict(tokens=tokens, logits_begin=begin, greedy=path, greedy_margin=margin))
        f32_bytes += logits.numpy().astype("<f4").tobytes()
        bf16_bytes += to_bf16_bytes(low)
    divergences = torch.cat([r.divergences for r in rough])
    files = ["config.json"] + sorted(p.name for p in directory.glob("*.safetensors"))
    torch_version = torch.__version__.split("+")[0]
    golden = dict(
        made_with=f"transformers {transformers.__version__}, torch {torch_version}",
        seed=seed, model_dir="." if directory == out else "../../../../deploy/demo-model",
        features=features, tp=tp, vocab_size=model.config.get_text_config().vocab_size,
        parameters=num_parameters(model), fp32_tolerance=fp32_tolerance,
        # The reference's own bfloat16 errors, with room for another order of roundings.
        bf16_tolerance=2 * max(r.worst for r in rough),
        bf16_mean_tolerance=1.5 * max(r.mean for r in rough),
        bf16_divergence_max=3 * float(divergences.max()),
        entropy_ratio=entropy_ratio(model, [p for p in prompts if len(p) > 4]),
        expert_ratio=expert_ratio(model, prompts),
        ropes=ropes(model, max(map(len, prompts))),
        short_ropes=ropes(model, 2) if rope_switch(model.config) else [],
        sha256={f: hashlib.sha256((directory / f).read_bytes()).hexdigest() for f in files},
        prompts=items)
    out.mkdir(exist_ok=True)
    (out / "golden.json").write_text(json.dumps(golden) + "\n")
    (out / "logits.f32").write_bytes(f32_bytes)
    (out / "logits.bf16").write_bytes(bf16_bytes)
    kib = sum(p.stat().st_size for p in out.iterdir()) / 1024
    print(f"{name}: seed {seed}, entropy {golden['entropy_ratio']:.2f} of uniform, smallest margin "
          f"{min(i['greedy_margin'] for i in items):.4f}, bf16 error "
          f"{golden['bf16_tolerance'] / 2:.3f} max, divergence {float(divergences.mean()):.1e} mean "
          f"{float(divergences.max()):.1e} max, {kib:.0f} KiB", flush=True)


def make_case(case, keep_checkpoint):
    directory = HERE / case.name
    if keep_checkpoint:
        golden = json.loads((directory / "golden.json").read_text())
        prompts, seed = [item["tokens"] for item in golden["prompts"]], golden["seed"]
    else:
        prompts, seed = make_checkpoint(case, directory)
    write_golden(case.name, directory, prompts, case.features, case.tp, seed=seed,
                 count=case.greedy,
                 fp32_tolerance=case.fp32_tolerance)


def make_demo():
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    model = load(DEMO, torch.float32)
    prompts = []
    for question in DEMO_QUESTIONS:
        tokens = tokenizer.apply_chat_template([{"role": "user", "content": question}],
                                               add_generation_prompt=True)
        if greedy(model, tokens, 64)[1] > MARGIN_MIN:
            prompts.append(tokens)
        if len(prompts) == 3:
            break
    assert len(prompts) == 3, "too many near ties; add questions"
    features = ["demo", "tied_head", "gqa", "bfloat16"]
    write_golden("demo", DEMO, prompts, features, [1, 2, 4, 8], keep=8)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[c.name for c in CASES] + ["demo"])
    parser.add_argument("--keep", action="store_true",
                        help="keep checkpoints and prompts, compute the rest anew")
    options = parser.parse_args()
    expected = (HERE / "expected.txt").read_text().split()
    assert expected == sorted([c.name for c in CASES] + ["demo"]), "expected.txt is not cases.py"
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    for case in CASES:
        if options.only is None or case.name in options.only:
            make_case(case, options.keep)
    if options.only is None or "demo" in options.only:
        make_demo()


if __name__ == "__main__":
    main()
