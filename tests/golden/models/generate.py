#!/usr/bin/env python3
"""Writes the model goldens: what Hugging Face transformers computes for small checkpoints.

    pip install -r tests/golden/models/requirements.txt
    python tests/golden/models/generate.py                # every case, about a minute on one core
    python tests/golden/models/generate.py --only demo    # one case; after training the demo anew

Per case: the checkpoint as an ordinary model directory (random weights; for `demo` the one in
deploy/demo-model), golden.json (prompts, 64 greedy tokens each, tolerances, rope frequencies),
logits.f32 and logits.bf16 (raw, little-endian, prompt after prompt, [positions, vocabulary]).

A random model with small weights attends to everything alike and would not notice a wrong rotation
or a wrong head. So query and key are scaled up and a seed is taken only if the median entropy of
attention is below half of uniform, the greedy path is varied and no step of it is close to a tie.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import pathlib
import shutil

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
DEMO = HERE.parents[2] / "deploy" / "demo-model"
GREEDY = 64
FP32_TOLERANCE = 1e-4
REFERENCE_SPREAD_MAX = 3e-5  # between the reference's own ways to compute the same
MARGIN_MIN = 2e-3  # of greedy steps, far above the tolerance
DISTINCT_MIN = 20  # different tokens among the greedy ones
ENTROPY_MAX = 0.45
SEEDS_MAX = 200


@dataclasses.dataclass
class Case:
    name: str
    features: list
    tp: list
    config: dict
    prompt_lengths: list
    dtype: torch.dtype = torch.float32
    shard_bytes: str = "1GB"
    qk_gain: float = 1.8


def config(**values):
    base = dict(num_hidden_layers=2, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=1,
                eos_token_id=2, tie_word_embeddings=False)
    return {**base, **values}


CASES = [
    Case("gqa", ["gqa", "head_dim", "float32"], [1, 2, 4, 8],
         config(hidden_size=56, intermediate_size=72, num_attention_heads=8, num_key_value_heads=2,
                head_dim=10, vocab_size=157), [1, 17, 31]),
    Case("rope_llama3", ["rope_llama3", "gqa", "bfloat16"], [1, 2, 4],
         config(hidden_size=48, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
                head_dim=16, vocab_size=131,
                rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
         [9, 220], dtype=torch.bfloat16),
    Case("tied_head", ["tied_head", "gqa", "float16"], [1, 2],
         config(hidden_size=40, intermediate_size=84, num_attention_heads=6, num_key_value_heads=2,
                head_dim=12, vocab_size=211, tie_word_embeddings=True),
         [3, 40], dtype=torch.float16),
    Case("biases", ["attention_bias", "mlp_bias", "gqa", "sharded", "float32"], [1, 2, 4],
         config(hidden_size=44, intermediate_size=60, num_attention_heads=4, num_key_value_heads=1,
                head_dim=14, vocab_size=149, attention_bias=True, mlp_bias=True), [2, 37],
         shard_bytes="80KB"),
    Case("mha", ["mha", "float32"], [1, 2, 4],
         config(hidden_size=48, intermediate_size=68, num_attention_heads=4, num_key_value_heads=4,
                vocab_size=163, rope_theta=500000.0), [5, 33]),
    Case("rope_linear", ["rope_linear", "gqa", "bfloat16"], [1, 2, 4],
         config(hidden_size=52, intermediate_size=76, num_attention_heads=4, num_key_value_heads=2,
                head_dim=18, vocab_size=139, rope_scaling={"rope_type": "linear", "factor": 4.0}),
         [6, 120], dtype=torch.bfloat16),
]

DEMO_QUESTIONS = ["What is Tessera?", "What is tensor parallelism?", "What is the KV cache?",
                  "What does the coordinator do?", "What is a worker?", "What is a KV block?",
                  "Which licence does the demo model have?", "What is continuous batching?",
                  "Hello", "How do I start Tessera?", "What is paged attention?", "What is NCCL?"]


def random_model(case, seed):
    """Weights that keep activations near 1, attention sharp and logits several units apart."""
    generator = torch.Generator().manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**case.config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.4 * noise)
            elif "embed_tokens" in name:
                parameter.copy_((0.35 if model.config.tie_word_embeddings else 0.6) * noise)
            else:
                gain = case.qk_gain if "q_proj" in name or "k_proj" in name else 1.6
                parameter.copy_(gain / math.sqrt(parameter.shape[1]) * noise)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, do_sample=False)
    return model.to(case.dtype)


def load(directory, dtype, attention="eager"):
    model = LlamaForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=attention)
    return model.eval()


@torch.no_grad()
def forward(model, tokens):
    return model(torch.tensor([tokens]), use_cache=False).logits[0].float()


@torch.no_grad()
def greedy(model, tokens):
    """GREEDY tokens after `tokens`, and the smallest distance between the best two logits."""
    out, margin = [], math.inf
    step = model(torch.tensor([tokens]), use_cache=True)
    while True:
        best = step.logits[0, -1].float().topk(2)
        out.append(int(best.indices[0]))
        margin = min(margin, float(best.values[0] - best.values[1]))
        if len(out) == GREEDY:
            return out, margin
        step = model(torch.tensor([[out[-1]]]), past_key_values=step.past_key_values,
                     use_cache=True)


@torch.no_grad()
def entropy_ratio(model, prompts):
    """Median over layers, heads and positions (from the 4th) of entropy / entropy of uniform."""
    ratios = []
    for tokens in prompts:
        for weights in model(torch.tensor([tokens]), output_attentions=True).attentions:
            entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1)[0]  # [heads, positions]
            uniform = torch.arange(1, len(tokens) + 1).log()
            ratios.append((entropy / uniform)[:, 4:].flatten())
    return float(torch.cat(ratios).median())


def spread(directory, model, prompts):
    """Largest difference between the reference's own attention implementations."""
    other = load(directory, torch.float32, "sdpa")
    return max(float((forward(model, p) - forward(other, p)).abs().max()) for p in prompts)


def make_checkpoint(case, directory):
    """Tries seeds until the model is a good witness; returns its prompts."""
    for seed in range(SEEDS_MAX):
        shutil.rmtree(directory, ignore_errors=True)
        random_model(case, seed).save_pretrained(directory, max_shard_size=case.shard_bytes)
        generator = np.random.default_rng(seed)
        prompts = [generator.integers(3, case.config["vocab_size"], n).tolist()
                   for n in case.prompt_lengths]
        model = load(directory, torch.float32)
        ratio = entropy_ratio(model, [p for p in prompts if len(p) > 4])
        paths = [greedy(model, p) for p in prompts]
        varied = min(len(set(tokens)) for tokens, _ in paths)
        margin = min(m for _, m in paths)
        if ratio < ENTROPY_MAX and varied >= DISTINCT_MIN and margin > MARGIN_MIN \
                and spread(directory, model, prompts) < REFERENCE_SPREAD_MAX:
            return prompts, seed
    raise SystemExit(f"{case.name}: no seed below {SEEDS_MAX} is good enough; change its gains")


def check_scaling_matters(directory, model, prompts):
    """Without rope scaling the logits must be far off, or the case shows nothing."""
    plain = load(directory, torch.float32)
    plain.config.rope_scaling = None
    plain.model.rotary_emb = type(plain.model.rotary_emb)(plain.config)
    worst = max(float((forward(model, p) - forward(plain, p)).abs().max()) for p in prompts)
    assert worst > 1000 * FP32_TOLERANCE, worst


def to_bf16_bytes(logits):
    return logits.to(torch.bfloat16).view(torch.int16).numpy().tobytes()


def write_golden(name, directory, prompts, features, tp, keep=None, seed=None):
    """`keep`: only the last so many positions of each prompt."""
    model = load(directory, torch.float32)
    bf16 = load(directory, torch.bfloat16)
    out = HERE / name
    items, f32_bytes, bf16_bytes, worst, means = [], b"", b"", 0.0, []
    for tokens in prompts:
        begin = max(0, len(tokens) - keep) if keep else 0
        logits, rough = forward(model, tokens)[begin:], forward(bf16, tokens)[begin:]
        difference = (logits - rough).abs()
        worst = max(worst, float(difference.max()))
        means.append(float(difference.mean()))
        path, margin = greedy(model, tokens)
        items.append(dict(tokens=tokens, logits_begin=begin, greedy=path, greedy_margin=margin))
        f32_bytes += logits.numpy().astype("<f4").tobytes()
        bf16_bytes += to_bf16_bytes(rough)
    files = ["config.json"] + sorted(p.name for p in directory.glob("*.safetensors"))
    torch_version = torch.__version__.split("+")[0]
    golden = dict(
        made_with=f"transformers {transformers.__version__}, torch {torch_version}",
        seed=seed, model_dir="." if directory == out else "../../../../deploy/demo-model",
        features=features, tp=tp, vocab_size=model.config.vocab_size,
        parameters=model.num_parameters(), fp32_tolerance=FP32_TOLERANCE,
        # The reference's own bfloat16 errors, with room for another order of roundings.
        bf16_tolerance=2 * worst, bf16_mean_tolerance=1.5 * max(means),
        entropy_ratio=entropy_ratio(model, [p for p in prompts if len(p) > 4]),
        inverse_frequencies=model.model.rotary_emb.inv_freq.tolist(),
        sha256={f: hashlib.sha256((directory / f).read_bytes()).hexdigest() for f in files},
        prompts=items)
    out.mkdir(exist_ok=True)
    (out / "golden.json").write_text(json.dumps(golden) + "\n")
    (out / "logits.f32").write_bytes(f32_bytes)
    (out / "logits.bf16").write_bytes(bf16_bytes)
    print(f"{name}: seed {seed}, entropy {golden['entropy_ratio']:.2f} of uniform, smallest margin "
          f"{min(i['greedy_margin'] for i in items):.4f}, bf16 error {worst:.3f} max, "
          f"{max(means):.4f} mean")
    return model


def make_case(case):
    directory = HERE / case.name
    prompts, seed = make_checkpoint(case, directory)
    model = write_golden(case.name, directory, prompts, case.features, case.tp, seed=seed)
    if "rope_scaling" in case.config:
        check_scaling_matters(directory, model, prompts)


def make_demo():
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    model = load(DEMO, torch.float32)
    prompts = []
    for question in DEMO_QUESTIONS:
        tokens = tokenizer.apply_chat_template([{"role": "user", "content": question}],
                                               add_generation_prompt=True)
        if greedy(model, tokens)[1] > MARGIN_MIN:
            prompts.append(tokens)
        if len(prompts) == 3:
            break
    assert len(prompts) == 3, "too many near ties; add questions"
    features = ["demo", "tied_head", "gqa", "bfloat16"]
    write_golden("demo", DEMO, prompts, features, [1, 2, 4, 8], keep=8)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[c.name for c in CASES] + ["demo"])
    only = parser.parse_args().only
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for case in CASES:
        if only in (None, case.name):
            make_case(case)
    if only in (None, "demo"):
        make_demo()


if __name__ == "__main__":
    main()
