"""The reference: models of Hugging Face transformers made, loaded and computed for generate.py."""

import dataclasses
import math

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig


def random_model(case, seed):
    """Weights that keep activations near 1, attention sharp and logits several units apart."""
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.model_type, **case.config))
    norm_mean = 0 if "norm_plus_one" in case.features else 1
    hidden = case.text["hidden_size"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                means = [m for end, m in case.norm_means.items() if name.endswith(end)]
                parameter.copy_((means or [norm_mean])[0] + 0.2 * noise)
            elif parameter.dim() == 1:  # biases; norms of an image part
                parameter.copy_(0.4 * noise)
            elif "embed_tokens" in name:
                parameter.copy_(case.embedding * noise)
            else:
                is_qk = "q_proj" in name or "k_proj" in name
                gain = case.qk_gain if is_qk else case.head if "lm_head" in name else 1.6
                parameter.copy_(gain / math.sqrt(parameter.shape[1]) * noise)
                if "qkv_proj" in name:  # values are no queries or keys
                    head = hidden // case.text["num_attention_heads"]
                    values = case.text["num_key_value_heads"] * head
                    parameter[:-values] *= case.qk_gain / 1.6
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, do_sample=False)
    return model.to(case.dtype)


def load(directory, dtype, attention="eager"):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype,
                                                 attn_implementation=attention)
    return model.eval()


@torch.no_grad()
def forward(model, tokens):
    return model(torch.tensor([tokens]), use_cache=False).logits[0].float()


@torch.no_grad()
def greedy(model, tokens, count):
    """`count` tokens after `tokens`, and the smallest distance between the best two logits."""
    out, margin = [], math.inf
    step = model(torch.tensor([tokens]), use_cache=True)
    while True:
        best = step.logits[0, -1].float().topk(2)
        out.append(int(best.indices[0]))
        margin = min(margin, float(best.values[0] - best.values[1]))
        if len(out) == count:
            return out, margin
        step = model(torch.tensor([[out[-1]]]), past_key_values=step.past_key_values,
                     use_cache=True)


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
    return sum(p.numel() for name, p in model.named_parameters() if is_text(name))


def ropes(model):
    """As the last forward left them."""
    text = getattr(model.model, "language_model", model.model)
    found = [text.rotary_emb, getattr(text, "rotary_emb_local", None)]
    return [dict(inverse_frequencies=r.inv_freq.tolist(), attention_factor=r.attention_scaling)
            for r in found if r is not None]
