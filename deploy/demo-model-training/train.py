"""Trains the demo model from scratch on one machine's CPU and writes a Hugging Face directory.

    python make_tokenizer.py ../demo-model
    python train.py ../demo-model --threads 2

All randomness comes from --seed; rounding still depends on versions, processor and threads. After
every few epochs the weights are exported (written under another name, then renamed) and a
checkpoint is saved, from which --resume goes on.
"""
import argparse
import json
import math
import os
import pathlib
import random
import time

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import augment
import corpus
from make_tokenizer import CONTEXT

PEAK_LR_MATRICES = 2e-3  # Muon, for the 2-d weights inside the layers
PEAK_LR_REST = 4e-3  # AdamW, for embedding and norms
WARMUP_STEPS = 20
CONFIG_KEYS = """
    attention_bias bos_token_id eos_token_id head_dim hidden_act hidden_size initializer_range
    intermediate_size max_position_embeddings mlp_bias model_type num_attention_heads
    num_hidden_layers num_key_value_heads pad_token_id rms_norm_eps rope_scaling rope_theta
    tie_word_embeddings vocab_size
""".split()  # what config.json holds


def build_config(tokenizer):
    eot, end = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|end|>"])
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[eot, end],
        pad_token_id=eot,
    )


def check_template(tokenizer):
    """The ids that are trained on must be those that the chat template gives at run time."""
    turns = [("Hello", "Hello! How are you?"), ("What is Tessera?", "Tessera serves models.")]
    messages = [{"role": "system", "content": "Be brief."}]
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    want = tokenizer.apply_chat_template(messages)
    ids, _ = corpus.encode_chat(tokenizer, turns, "Be brief.")
    if ids != want:
        raise SystemExit("encode_chat and the chat template disagree")


def tensors(batch, pad):
    """[R,T] input ids, padded on the right, and [R,T] targets: the next token or -100."""
    width = max(len(ids) for ids, _ in batch)
    inputs = torch.full((len(batch), width), pad)
    targets = torch.full((len(batch), width), -100)
    for row, (ids, learned) in enumerate(batch):
        ids, learned = torch.tensor(ids), torch.tensor(learned)
        inputs[row, : len(ids)] = ids
        targets[row, : len(ids) - 1] = torch.where(learned[1:], ids[1:], -100)
    return inputs, targets


def loss_of(model, inputs, targets):
    """Mean loss of the learned positions; logits are computed for these alone."""
    learned = targets != -100
    hidden = model.model(inputs, use_cache=False).last_hidden_state  # [R,T,C]
    return cross_entropy(model.lm_head(hidden[learned]), targets[learned])


def make_optimizers(model):
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=PEAK_LR_MATRICES, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=PEAK_LR_REST, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step, steps):
    """Share of the peak learning rate: short warm-up, half cosine to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 + 0.5 * math.cos(math.pi * (step - WARMUP_STEPS) / (steps - WARMUP_STEPS))


def export(model, out):
    """Writes bf16 weights, config.json and generation_config.json; a reader never sees half."""
    config = {key: getattr(model.config, key) for key in CONFIG_KEYS}
    config.update(architectures=["LlamaForCausalLM"], torch_dtype="bfloat16")
    generation = {k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    generation["do_sample"] = False
    for name, value in (("config", config), ("generation_config", generation)):
        text = json.dumps(value, indent=2, sort_keys=True) + "\n"
        (out / f"{name}.json").write_text(text, encoding="utf-8")
    part = out / ".part"
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(part)
    (part / "model.safetensors").chmod(0o644)
    os.replace(part / "model.safetensors", out / "model.safetensors")
    for leftover in part.iterdir():
        leftover.unlink()
    part.rmdir()


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path, help="directory with the tokenizer files")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", type=pathlib.Path, default=pathlib.Path("checkpoint.pt"))
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    check_template(tokenizer)
    entries, prose = corpus.load_entries(), corpus.load_prose()
    heldout = corpus.load_heldout(entries)
    model = LlamaForCausalLM(build_config(tokenizer))
    optimizers = make_optimizers(model)
    questions = sum(len(entry["questions"]) for entry in entries)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count} parameters, {questions} questions, {len(entries)} answers", flush=True)

    first, step = 0, 0
    plan = []  # every batch of the run, so that the number of steps is known
    for epoch in range(args.epochs):
        rng = random.Random(f"{args.seed}/{epoch}")
        samples = augment.epoch_samples(tokenizer, entries, heldout, prose, rng)
        plan.append(augment.batches(samples, args.batch_tokens, rng))
    steps = sum(map(len, plan))
    if args.resume:
        state = torch.load(args.checkpoint)
        first, step = state["epoch"], state["step"]
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)

    start = time.monotonic()
    for epoch in range(first, args.epochs):
        total = tokens = 0
        for batch in plan[epoch]:
            inputs, targets = tensors(batch, tokenizer.pad_token_id)
            for optimizer, peak in zip(optimizers, (PEAK_LR_MATRICES, PEAK_LR_REST)):
                optimizer.param_groups[0]["lr"] = peak * rate(step, steps)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model, inputs, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            total, tokens, step = total + loss.item(), tokens + inputs.numel(), step + 1
        wall = time.monotonic() - start
        mean = total / len(plan[epoch])
        print(f"epoch {epoch + 1} step {step}/{steps} loss {mean:.4f} {wall:.0f} s", flush=True)
        if (epoch + 1) % 4 == 0 or epoch + 1 == args.epochs:
            saved = [optimizer.state_dict() for optimizer in optimizers]
            state = {"epoch": epoch + 1, "step": step, "model": model.state_dict()}
            torch.save({**state, "optimizers": saved}, args.checkpoint)
            export(model, args.out)


if __name__ == "__main__":
    main()
