#!/usr/bin/env python3
"""Writes settings.json: what tokenizer_config.json, special_tokens_map.json and config.json change about the tokenizers
of generate.py, as the reference reads them. Versions as in generate.py; running it again changes nothing."""

import json
import pathlib
import shutil
import tempfile

import transformers

import generate

HERE = pathlib.Path(__file__).resolve().parent

TEXTS = ["Hello, world!", "a<|endoftext|>b <s> x </s>", " <extra>  the end ", "x<turn>y", "<|im_end|>", "<eot>a"]


def token(content, **switches):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": False, **switches}


def named(content, **switches):
    return {"__type": "AddedToken", **token(content, special=True, **switches)}


LISTED = {"700": token("<extra>", lstrip=True, rstrip=True), "701": token("<turn>", special=True)}

# name, tokenizer of generate.py, files
CASES = [
    ("llama_writes_bos", "gpt2",
     {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "bos_token": "<|endoftext|>",
                                "eos_token": "<|endoftext|>"}}),
    ("llama_writes_both", "qwen",
     {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True,
                                "add_eos_token": True, "bos_token": "<|endoftext|>",
                                "eos_token": named("<|im_end|>")}}),
    ("llama_writes_none", "llama3",
     {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False}}),
    ("llama_names", "sentencepiece", {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}}),
    ("gemma_names", "gemmabytes",
     {"tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer", "eos_token": "</s>"}}),
    ("class_of_the_type", "qwen",
     {"tokenizer_config.json": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
      "config.json": {"model_type": "llama"}}),
    ("other_class", "llama3",
     {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False,
                                "bos_token": "<|begin_of_text|>"}}),
    ("listed_tokens", "qwen",
     {"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": LISTED,
                                "eos_token": "<|im_end|>", "additional_special_tokens": ["<eot>"]}}),
    ("listed_otherwise", "qwen",
     {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast",
                                "added_tokens_decoder": {"650": token("<|im_end|>", lstrip=True, rstrip=True)},
                                "pad_token": "<pad>"}}),
    ("named_only", "metaspace",
     {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eot>",
                                "additional_special_tokens": ["<turn>", named("<extra>")]}}),
    ("old_map", "qwen",
     {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"},
      "special_tokens_map.json": {"eos_token": token("<|im_end|>"), "pad_token": "<|endoftext|>",
                                  "additional_special_tokens": ["<turn>"]}}),
    ("map_is_not_asked", "qwen",
     {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>",
                                "added_tokens_decoder": LISTED},
      "special_tokens_map.json": {"eos_token": "<|im_end|>"}}),
    ("prefix_space", "gpt2",
     {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": True}}),
]


def main():
    golden = []
    for name, tokenizer, files in CASES:
        folder = pathlib.Path(tempfile.mkdtemp())
        shutil.copy(HERE / tokenizer / "tokenizer.json", folder)
        for file, content in files.items():
            (folder / file).write_text(json.dumps(content))
        fast = transformers.AutoTokenizer.from_pretrained(folder)
        special = [i for i in fast.added_tokens_decoder if not fast.decode([i], skip_special_tokens=True)]
        golden.append({
            "name": name, "tokenizer": tokenizer, "files": files,
            "texts": [{"text": text, "ids": fast.encode(text)} for text in TEXTS],
            "special_ids": sorted(special), "special_tokens": fast.special_tokens_map,
        })
        shutil.rmtree(folder)
    generate.write(HERE / "settings.json", golden)


if __name__ == "__main__":
    main()
