"""The reference: models of Hugging Face transformers made, loaded and computed for generate.py."""

import collections
import dataclasses
import json
import math
import re

import torch
from safetensors.torch import load_file, save_file
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText,
                          GenerationConfig)

FLOAT8_MAX = 448.0  # of e4m3 without infinities
EXPERT = re.compile(r"\.experts\.\d+$")
ROUTER = re.compile(r"(mlp|block_sparse_moe)\.gate\.weight$")
CORRECTION = "e_score_correction_bias"
# What DeepSeek V3 publishes in float8: every projection, but not the router.
FLOAT8 = re.compile(r"layers\.\d+\.(self_attn|mlp)\..*proj(_with_mqa)?\.weight$")


def auto_class(config):
    """Where the reference looks for the class of a model's text."""
    return AutoModelForImageTextToText if config.model_type == "mistral3" else AutoModelForCausalLM


def random_model(case, seed):
    """Weights that keep activations near 1, attention sharp and logits several units apart."""
    generator = torch.Generator().manual_seed(seed)
    config = AutoConfig.for_model(case.model_type, **case.config)
    model = auto_class(config).from_config(config)
    norm_mean = 0 if "norm_plus_one" in case.features else 1
    hidden = case.text["hidden_size"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                means = [m for end, m in case.norm_means.items() if name.endswith(end)]
                parameter.copy_((means or [norm_mean])[0] + 0.2 * noise)
            elif parameter.dim() == 1:  # biases; norms of an image part
                parameter.copy_(case.bias * noise)
            elif "embed_tokens" in name:
                parameter.copy_(case.embedding * noise)
            else:
                parameter.copy_(gain(case, name) / math.sqrt(parameter.shape[1]) * noise)
                if ROUTER.search(name):  # some experts are wanted more often than others
                    parameter *= torch.linspace(0.5, 1.5, len(parameter))[:, None]
                if "qkv_proj" in name:  # values are no queries or keys
                    head = hidden // case.text["num_attention_heads"]
                    values = case.text["num_key_value_heads"] * head
                    parameter[:-values] *= case.qk_gain / 1.6
        corrections = {n: b for n, b in model.named_buffers() if n.endswith(CORRECTION)}
        for buffer in corrections.values():
            noise = torch.randn(buffer.shape, generator=generator)
            buffer.copy_((case.correction * noise).bfloat16())
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, do_sample=False)
    model.to(case.dtype)
    for buffer in corrections.values():
        buffer.data = buffer.data.float()  # as published
    return model


def gain(case, name):
    if any(part in name for part in ("q_proj", "k_proj", "q_b_proj")):
        return case.qk_gain
    if "lm_head" in name:
        return case.head
    if ROUTER.search(name):
        return case.router
    if ".experts." in name and ("down_proj" in name or "w2" in name):
        return case.expert_out
    return 1.6


def save(case, model, directory):
    model.save_pretrained(directory, max_shard_size=case.shard_bytes)
    if case.float8:
        to_float8(case, directory)


def to_float8(case, directory):
    """Stores the projections as DeepSeek V3 is published: per block of weights the scale that takes
    its largest to 448. Adds some of a layer that drafts tokens, which nobody is to look at."""
    path = directory / "model.safetensors"
    tensors = {}
    for name, weight in load_file(path).items():
        if not FLOAT8.search(name):
            tensors[name] = weight
            continue
        scales = block_scales(weight.float(), case.float8)
        wide = spread_scales(scales, weight.shape, case.float8)
        tensors[name] = (weight.float() / wide).to(torch.float8_e4m3fn)
        tensors[name + "_scale_inv"] = scales
    draft = f"model.layers.{case.config['num_hidden_layers']}."
    tensors[draft + "enorm.weight"] = torch.ones(case.config["hidden_size"], dtype=case.dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config["num_nextn_predict_layers"] = 1
    config["quantization_config"] = dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8",
                                         weight_block_size=list(case.float8))
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def block_scales(weight, block):
    rows, columns = (-(-n // b) for n, b in zip(weight.shape, block))
    padded = torch.zeros(rows * block[0], columns * block[1])
    padded[:weight.shape[0], :weight.shape[1]] = weight.abs()
    return padded.view(rows, block[0], columns, block[1]).amax((1, 3)) / FLOAT8_MAX


def spread_scales(scales, shape, block):
    wide = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return wide[:shape[0], :shape[1]]


def load(directory, dtype, attention="eager"):
    config = AutoConfig.from_pretrained(directory)
    float8 = getattr(config, "quantization_config", None)
    if float8 is None:
        model = auto_class(config).from_pretrained(directory, dtype=dtype,
                                                   attn_implementation=attention)
    else:
        model = load_float8(config, float8["weight_block_size"], directory, dtype, attention)
    if config.model_type == "deepseek_v2":
        scale_scores(model)
    return model.eval()


def load_float8(config, block, directory, dtype, attention):
    """The reference's own way to compute in float8 needs a GPU; so with weights taken back."""
    del config.quantization_config
    stored, tensors = load_file(directory / "model.safetensors"), {}
    for name, weight in stored.items():
        if weight.dtype == torch.float8_e4m3fn:
            scales = stored[name + "_scale_inv"]
            weight = weight.float() * spread_scales(scales, weight.shape, block)
        if not name.endswith("_scale_inv"):
            tensors[name] = weight.to(dtype)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    draft = f"model.layers.{config.num_hidden_layers}."
    assert not missing and all(name.startswith(draft) for name in unexpected), (missing, unexpected)
    return model


def scale_scores(model):
    """transformers 4.57 leaves out of DeepSeek V2 that scores are scaled with the square of what
    mscale_all_dim says. The authors' code has it, and so have later versions (pull request 47435)."""
    scaling = model.config.rope_scaling or {}
    if scaling.get("mscale_all_dim"):
        magnitude = 0.1 * scaling["mscale_all_dim"] * math.log(scaling["factor"]) + 1.0
        for layer in model.model.layers:
            layer.self_attn.scaling *= magnitude * magnitude


@torch.no_grad()
def forward(model, tokens):
    return model(torch.tensor([tokens]), use_cache=False).logits[0].float()


@torch.no_grad()
def greedy(model, tokens, count):
    """`count` tokens after `tokens`, and the smallest distance between the best two logits. A
    sequence that grows beyond longrope's original context is computed anew there, without its
    cache, as Phi3ForCausalLM.prepare_inputs_for_generation has it."""
    out, margin = [], math.inf
    switch = rope_switch(model.config)
    step = model(torch.tensor([tokens]), use_cache=True)
    while True:
        best = step.logits[0, -1].float().topk(2)
        out.append(int(best.indices[0]))
        margin = min(margin, float(best.values[0] - best.values[1]))
        if len(out) == count:
            return out, margin
        if len(tokens) + len(out) == switch + 1:
            step = model(torch.tensor([tokens + out]), use_cache=True)
        else:
            step = model(torch.tensor([[out[-1]]]), past_key_values=step.past_key_values,
                         use_cache=True)


def generated(model, tokens, count):
    """The same by the reference's own loop. With eager attention transformers 4.57 leaves the
    causal mask out of the step that computes a sequence anew; with sdpa, its default, it does
    not."""
    answer = model.generate(torch.tensor([tokens]), max_new_tokens=count, do_sample=False,
                            eos_token_id=None, pad_token_id=0)
    return answer[0, len(tokens):].tolist()


@torch.no_grad()
def entropy_ratio(model, prompts):
    """Median over layers, heads and positions (from the 4th) of entropy / entropy of uniform over
    what the position sees."""
    ratios = []
    for tokens in prompts:
        for weights in model(torch.tensor([tokens]), output_attentions=True).attentions:
            entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1)[0]  # [heads, positions]
            uniform = (weights[0] > 0).sum(-1).log()
            ratios.append((entropy / uniform)[:, 4:].flatten())
    return float(torch.cat(ratios).median())


@torch.no_grad()
def expert_ratio(model, prompts):
    """Least over layers of: tokens of the most wanted expert / tokens of an expert on average. 0 of
    a model without experts."""
    rows = collections.defaultdict(collections.Counter)  # layer -> expert -> tokens
    hooks = []
    for name, module in model.named_modules():
        if not EXPERT.search(name):
            continue
        layer, expert = name.rsplit(".", 1)
        rows[layer][expert] = 0

        def count(_, arguments, layer=layer, expert=expert):
            rows[layer][expert] += arguments[0].shape[0]
        hooks.append(module.register_forward_pre_hook(count))
    for tokens in prompts:
        model(torch.tensor([tokens]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return min((max(n.values()) * len(n) / sum(n.values()) for n in rows.values()), default=0.0)


def spread(case, directory, model, prompts):
    """Largest difference between the reference's own ways to compute the same."""
    if case.spread == "sdpa":
        other = load(directory, torch.float32, "sdpa")
    else:
        other = load(directory, torch.float64)
    return max(float((forward(model, p) - forward(other, p)).abs().max()) for p in prompts)


@dataclasses.dataclass
class Roughness:
    """How far bfloat16 logits are from the float32 ones, position by position."""
    worst: float
    mean: float
    divergences: torch.Tensor  # [positions], KL(float32 || bfloat16) in nats


def roughness(logits, rough):
    difference = (logits - rough).abs()
    p = torch.log_softmax(logits.double(), -1)
    q = torch.log_softmax(rough.double(), -1)
    return Roughness(float(difference.max()), float(difference.mean()),
                     (p.exp() * (p - q)).sum(-1))


def is_text(name):
    return "vision_tower" not in name and "multi_modal_projector" not in name


def num_parameters(model):
    stored = list(model.named_parameters())
    stored += [(n, b) for n, b in model.named_buffers() if n.endswith(CORRECTION)]
    return sum(p.numel() for name, p in stored if is_text(name))


def rope_switch(config):
    """Tokens of the longest sequence that longrope turns by its short factors; 0 without one."""
    scaling = getattr(config, "rope_scaling", None) or {}
    if "short_factor" not in scaling:
        return 0
    return getattr(config, "original_max_position_embeddings", None) or scaling[
        "original_max_position_embeddings"]


def ropes(model, length):
    """For a sequence of `length` tokens."""
    forward(model, [1] * length)  # some keep what the last sequence needed
    text = getattr(model.model, "language_model", model.model)
    found = [text.rotary_emb, getattr(text, "rotary_emb_local", None)]
    return [rope_of(r, model.config, length) for r in found if r is not None]


def rope_of(rotary, config, length):
    if hasattr(rotary, "inv_freq"):
        frequencies, factor = rotary.inv_freq, rotary.attention_scaling
    else:
        frequencies, factor = rotary.rope_init_fn(config, torch.device("cpu"), length)
        is_long = length > config.rope_scaling["original_max_position_embeddings"]
        factor = rotary.long_mscale if is_long else rotary.short_mscale
    return dict(inverse_frequencies=frequencies.tolist(), attention_factor=factor)
