"""Trains the byte-level BPE tokenizer on the corpus and writes the tokenizer files.

    python make_tokenizer.py ../demo-model
"""
import argparse
import json
import pathlib

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import corpus

VOCAB_SIZE = 2048  # all 256 bytes, 6 special tokens, the rest merges
CONTEXT = 1024  # tokens

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role: ' + message['role']) }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


def train_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=corpus.SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = corpus.SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, 0)]
    )
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    entries = corpus.load_entries()
    texts = [t for e in entries for t in [*e["questions"], e["answer"]]] + corpus.load_prose()
    tokenizer = train_tokenizer(texts)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise SystemExit(f"corpus gives {tokenizer.get_vocab_size()} tokens, want {VOCAB_SIZE}")
    tokenizer.save(str(out / "tokenizer.json"))

    bos, eot, *_, end = corpus.SPECIAL_TOKENS
    named = {"bos_token": bos, "eos_token": end, "pad_token": eot}
    added = {
        str(i): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for i, token in enumerate(corpus.SPECIAL_TOKENS)
    }
    config = {
        "added_tokens_decoder": added,
        **named,
        "additional_special_tokens": corpus.SPECIAL_TOKENS[2:5],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": CONTEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    special = {**named, "additional_special_tokens": corpus.SPECIAL_TOKENS[2:5]}
    for name, value in (("tokenizer_config", config), ("special_tokens_map", special)):
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        (out / f"{name}.json").write_text(text, encoding="utf-8")
    chars = sum(map(len, texts))
    tokens = sum(len(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False))
    print(f"{VOCAB_SIZE} tokens, {chars / tokens:.2f} characters per token on the corpus")


if __name__ == "__main__":
    main()
