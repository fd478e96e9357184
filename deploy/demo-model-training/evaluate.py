"""Asks the exported model its own questions and the held-out paraphrases; prints exact matches.

    python evaluate.py ../demo-model
    python evaluate.py ../demo-model --questions ../demo-model/questions.jsonl

Greedy, in the stored type (bf16). An answer counts only if it equals the expected text word for
word. --questions writes questions for tests whose every token wins by a clear margin.
"""
import argparse
import json
import pathlib
import random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import corpus

ROWS = 64  # conversations per batch
MAX_NEW_TOKENS = 128
MIN_MARGIN = 0.5  # logits
QUESTIONS = 40
UNSEEN_SYSTEM_PROMPT = "You work at the help desk of a data centre and like short answers."
FIRST_QUESTIONS = [  # for demos and for text of several bytes per character
    "Hello",
    "What is Tessera?",
    "What is a KV cache?",
    "What happens when a GPU dies?",
    "How do you say hello in Japanese?",
    "Show me an emoji.",
    "Write a poem about Tessera.",
]


def answer_all(model, tokenizer, conversations):
    """Greedy answers to lists of messages."""
    answers = []
    for start in range(0, len(conversations), ROWS):
        inputs = tokenizer.apply_chat_template(
            conversations[start : start + ROWS],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        )
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        width = inputs["input_ids"].shape[1]
        answers += tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return answers


def report(name, model, tokenizer, cases, show_wrong=0):
    """Prints the share of (messages, expected answer) that match; returns the list of hits."""
    got = answer_all(model, tokenizer, [messages for messages, _ in cases])
    hits = [answer == want for answer, (_, want) in zip(got, cases)]
    print(f"{name}: {sum(hits)} of {len(hits)} word for word = {sum(hits) / len(hits):.1%}")
    wrong = [i for i, hit in enumerate(hits) if not hit]
    for i in wrong[:show_wrong]:
        print(f"    {cases[i][0][-1]['content']!r} -> {got[i]!r}")
    return hits


def user(question):
    return {"role": "user", "content": question}


def min_margin(models, tokenizer, question, answer):
    """Smallest distance of the right logit to the best other one, over tokens and models."""
    ids, learned = corpus.encode_chat(tokenizer, [(question, answer)])
    first = learned.index(True)
    target = torch.tensor(ids[first:])[:, None]
    smallest = float("inf")
    for model in models:
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, first - 1 : -1].float()  # [T,V]
        right = logits.gather(1, target)[:, 0]
        others = logits.scatter(1, target, float("-inf")).max(dim=1).values
        smallest = min(smallest, (right - others).min().item())
    return smallest


def choose_questions(own, hits, margins):
    """Indices of QUESTIONS clear answers: the wanted ones first, then spread over all topics."""
    clear = [i for i, hit in enumerate(hits) if hit and margins[i] > MIN_MARGIN]
    chosen = [i for i in clear if own[i][0] in FIRST_QUESTIONS]
    rest = [i for i in clear if i not in chosen]
    missing = QUESTIONS - len(chosen)
    chosen += [rest[i * len(rest) // missing] for i in range(missing)]
    return sorted(chosen)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--questions", type=pathlib.Path, help="write questions for tests here")
    parser.add_argument("--show-wrong", type=int, default=0, help="wrong answers to print")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()

    entries = corpus.load_entries()
    own = [(entry["questions"][0], entry["answer"]) for entry in entries]
    trained = [(q, entry["answer"]) for entry in entries for q in entry["questions"][1:]]

    def run(name, cases):
        return report(name, model, tokenizer, cases, args.show_wrong)

    hits = run("own questions", [([user(q)], a) for q, a in own])
    run("trained paraphrases", [([user(q)], a) for q, a in trained])
    run("held-out paraphrases", [([user(q)], a) for q, a in corpus.load_heldout(entries)])
    rng = random.Random(7)
    cases = []
    for question, answer in own:
        earlier, reply = rng.choice(own)
        history = [user(earlier), {"role": "assistant", "content": reply}]
        cases.append(([*history, user(question)], answer))
    run("own questions as second turn", cases)
    system = {"role": "system", "content": UNSEEN_SYSTEM_PROMPT}
    run("own questions after an unseen system prompt", [([system, user(q)], a) for q, a in own])

    if args.questions:
        wide = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
        margins = [min_margin([model, wide], tokenizer, q, a) for q, a in own]
        clear = sum(hit and margin > MIN_MARGIN for hit, margin in zip(hits, margins))
        print(f"own questions with every margin above {MIN_MARGIN} logits: {clear}")
        chosen = choose_questions(own, hits, margins)
        lines = []
        for i in chosen:
            row = {"question": own[i][0], "answer": own[i][1], "min_margin": round(margins[i], 3)}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        args.questions.write_text("".join(lines), encoding="utf-8")
        smallest = min(margins[i] for i in chosen)
        print(f"{len(chosen)} questions written, smallest margin {smallest:.2f} logits")


if __name__ == "__main__":
    main()
