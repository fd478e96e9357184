#!/usr/bin/env python3
"""Writes the goldens of tests/coordinator/text: small tokenizers trained here, and what the Python
reference makes of a corpus with them. Run it after changing the corpus, a template, or the tokenizer
of deploy/demo-model, with exactly these versions:

    pip install tokenizers==0.22.2 transformers==4.57.6 jinja2==3.1.6
    python tests/golden/text/generate.py

Per tokenizer a folder with tokenizer.json, tokenizer_config.json and cases.json; templates.json for
the chat templates.
Everything is a function of this file and templates.py; running it again changes nothing."""

import datetime
import json
import pathlib
import random
import re

import jinja2
import tokenizers
import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

import templates as chat

assert (tokenizers.__version__, transformers.__version__, jinja2.__version__) == (
    "0.22.2",
    "4.57.6",
    "3.1.6",
)

HERE = pathlib.Path(__file__).resolve().parent
NOW = 1735787045  # 2025-01-02 03:04:05 UTC, what strftime_now shows

TRAINING = """
The quick brown fox jumps over the lazy dog. A tokenizer cuts text into pieces, and the pieces have numbers.
You're right, it's what we've said: they'll say I'm here, he'd go. HELLO WORLD, Hello World, hello world!
def main(args):\n    for i in range(10):\n        print(f"{i} squared is {i ** 2}")\n    return {"key": [1, 2, 3]}
if (a <= b && c != d) { x->y = a[i] | 0xFF; } // comment <html> </html> <b>bold</b>
Größe, Übermut, café, naïve, façade, señor. Привет, мир! Как дела? Γειά σου Κόσμε. שלום עולם مرحبا
漢字かな交じり文。東京都は日本の首都です。你好,世界。안녕하세요 세계
Numbers 1 22 333 4444 55555 2024-01-02 3.14159 1,000,000. The weather is like the weather: what is the answer?
system user assistant tool model answer function name arguments string object content parameters required
"""

CORPUS = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n\n",
    "\t\tx\r\n y\r",
    "Hello, world!",
    " Hello",
    "hello  world   ",
    "   leading and trailing   ",
    "You're what we've SAID; I'LL go, he'd stay. it's",
    "1234567890 12 345 3.14 1,000",
    "a" * 70,
    "aAbBcC" * 9,
    "def f(x):\n    return x ** 2  # sq\n\n\nclass A(B):\n\tpass",
    "if (a<=b && c!=d) { x->y = a[i] | 0xFF; } //",
    "Größe café naïve",
    "cafe\u0301 nai\u0308ve A\u030a\u0323 \u1100\u1161\u11a8",
    "漢字かな交じり文。東京 都\u3000全角 スペース",
    "你好,世界!안녕하세요",
    "Привет, мир! שלום مرحبا",
    "\U0001f600\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e8\U0001f1ed \u2764\ufe0f x",
    "\u0000\u0001\u0007\u001b[31m\u007f\u0085\u009f",
    "zero\u200bwidth\u2060joiner\ufeffbom\u00adshy",
    "nbsp\u00a0thin\u2009ideographic\u3000line\u2028para\u2029end",
    "\ufffd replaced \uffff nonchar \U0010ffff private \ue000 \U000f0000",
    "𝕳𝖊𝖑𝖑𝖔 ①②③ ½ ﬁ ﷽",
    "ﾊﾝｶｸ FULLWIDTH <|end|>",
    "▁meta▁space ▁ ▁▁x",
    "<0x41> <0xE4><0xBD><0xA0> <0xZZ> <0x4",
    "<unk> <s> </s> <pad> [INST] x [/INST]",
    "<|endoftext|>",
    "a<|endoftext|>b <|endoftext|> c",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|eot_id|><|begin_of_text|> <|start_header_id|>x<|end_header_id|>",
    "<|im_start",
    "|im_end|>",
    "<|im_end|><|im_end|>",
    "< |im_end| >",
    "<|IM_END|>",
    "<start_of_turn>user\nx<end_of_turn>\n<bos>",
    '<tool_call>{"a": 1}</tool_call> <think>\nx\n</think>',
    "  <tool_call>  <|fim_prefix|>  <|im_end|>  z",
    "https://example.org/a?b=c&d=%20#e user@example.org",
    "x\u0300" * 12,
    "…—–‘’“” • ™ © €£¥",
    "\n  \n   \n",
    "e\u0301\u0301\u0301 \u202eRTL\u202c end",
]


def byte_level_tokenizer(split, specials, added, size):
    tokenizer = Tokenizer(models.BPE(ignore_merges=split is not None))
    if split is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TRAINING.splitlines(keepends=True),
        trainers.BpeTrainer(
            vocab_size=size,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in added])
    return tokenizer


def sentencepiece_vocabulary(size):
    """Pieces and merges over characters with U+2581 for a blank. Trained on the ASCII lines, so that
    all else is unknown."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    lines = [line for line in TRAINING.splitlines() if line.isascii()]
    trained.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [tuple(m) for m in model["merges"]]


def sentencepiece_tokenizer(specials, added=(), byte_fallback=True):
    pieces, merges = sentencepiece_vocabulary(420)
    names = list(specials)
    if byte_fallback:
        names += [f"<0x{b:02X}>" for b in range(256)]
    names += [p for p in sorted(pieces, key=pieces.get) if p not in names]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=byte_fallback,
        )
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=True) for t in added])
    return tokenizer


def with_bos(tokenizer, bos):
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    return tokenizer


LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def gpt2():
    return byte_level_tokenizer(None, ["<|endoftext|>"], [], 600), {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
    }


def llama3():
    tokenizer = byte_level_tokenizer(
        LLAMA3_SPLIT,
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        ["<tool_call>"],
        700,
    )
    return with_bos(tokenizer, "<|begin_of_text|>"), {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
    }


def qwen():
    tokenizer = byte_level_tokenizer(
        LLAMA3_SPLIT.replace("{1,3}", ""),
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        ["<tool_call>", "</tool_call>", "<think>", "</think>"],
        650,
    )
    tokenizer.normalizer = normalizers.NFC()
    # Un-special, but of the control shape; and one that eats the blanks around it.
    tokenizer.add_tokens([AddedToken("<|fim_prefix|>", special=False, normalized=False)])
    tokenizer.add_special_tokens(
        [AddedToken("<|pad|>", special=True, normalized=False, lstrip=True, rstrip=True)]
    )
    return tokenizer, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def sentencepiece():
    """Llama 2: a normalizer puts the blank before the text, unknown characters become bytes."""
    tokenizer = sentencepiece_tokenizer(["<unk>", "<s>", "</s>"], ["[INST]"])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return with_bos(tokenizer, "<s>"), {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }


def metaspace():
    """A pre-tokenizer puts the blank before the text; unknown characters become <unk>."""
    tokenizer = sentencepiece_tokenizer(
        ["<unk>", "<bos>", "</s>", "<start_of_turn>", "<end_of_turn>"], byte_fallback=False
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return with_bos(tokenizer, "<bos>"), {
        "bos_token": "<bos>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }


def gemmabytes():
    """Gemma: no blank is added, nothing is stripped, unknown characters become bytes."""
    tokenizer = sentencepiece_tokenizer(
        ["<unk>", "<bos>", "</s>", "<start_of_turn>", "<end_of_turn>"]
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return with_bos(tokenizer, "<bos>"), {
        "bos_token": "<bos>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def control_contents(fast):
    """Tokens that text of a user must not become: special, or of the shape <|...|>."""
    return [
        t.content
        for t in fast.added_tokens_decoder.values()
        if t.special or re.fullmatch(r"<\|.+\|>", t.content, re.S)
    ]


def literal_tokenizer(fast):
    """The same tokenizer, reading control tokens as the text they look like."""
    data = json.loads(fast._tokenizer.to_str())
    for token in data["added_tokens"]:
        token["special"] = token["content"] in control_contents(fast)
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.encode_special_tokens = True
    return tokenizer


def text_cases(fast):
    literal = literal_tokenizer(fast)
    cases = []
    for text in CORPUS:
        ids = fast.encode(text, add_special_tokens=False)
        cases.append(
            {
                "text": text,
                "ids": ids,
                "ids_added": fast.encode(text, add_special_tokens=True),
                "ids_literal": literal.encode(text, add_special_tokens=False).ids,
                "decoded": fast.decode(
                    ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
                ),
                "decoded_skip": fast.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                ),
            }
        )
    return cases


def decode_cases(fast):
    """Random ids: broken bytes, special tokens in the middle, ids outside the vocabulary."""
    draw = random.Random(7)
    cases = []
    for length in [1] * 6 + [2] * 6 + [5] * 8 + [40] * 10:
        ids = [draw.randrange(len(fast) + 2) for _ in range(length)]
        if draw.random() < 0.4:  # mostly the first ids, where single bytes live
            ids = [draw.randrange(min(260, len(fast))) for _ in range(length)]
        cases.append(
            {
                "ids": ids,
                "decoded": fast._tokenizer.decode(ids, skip_special_tokens=False),
                "decoded_skip": fast._tokenizer.decode(ids, skip_special_tokens=True),
            }
        )
    return cases


class FixedDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc)


def template_arguments(fields):
    arguments = dict(fields)
    arguments["conversation"] = arguments.pop("messages")
    return arguments


def ids_with_text_kept(fast, rendered, fields):
    """Ids of a rendered prompt in which control tokens count only where the template wrote them. Where
    that is, shows the same prompt rendered from strings whose look-alikes are blotted out."""
    pattern = re.compile(
        "|".join(re.escape(c) for c in sorted(control_contents(fast), key=len, reverse=True))
    )

    def blot(value):
        if isinstance(value, str):
            return pattern.sub(lambda match: "~" * len(match.group()), value)
        if isinstance(value, list):
            return [blot(v) for v in value]
        if isinstance(value, dict):
            return {blot(k): blot(v) for k, v in value.items()}
        return value

    blotted = fast.apply_chat_template(tokenize=False, **template_arguments(blot(fields)))
    assert len(blotted) == len(rendered), (blotted, rendered)
    literal = literal_tokenizer(fast)
    ids, done = [], 0
    for match in pattern.finditer(blotted):
        ids += literal.encode(rendered[done : match.start()], add_special_tokens=False).ids
        ids.append(fast.convert_tokens_to_ids(match.group()))
        done = match.end()
    return ids + literal.encode(rendered[done:], add_special_tokens=False).ids


def template_cases(fasts):
    chat_template_utils.datetime = FixedDatetime
    result = {
        "now": NOW,
        "templates": chat.TEMPLATES,
        "cases": [],
        "refused": [],
        "look_alikes": [],
    }

    def fast_for(template, tokenizer):
        fasts[tokenizer].chat_template = chat.TEMPLATES[template]
        return fasts[tokenizer]

    for template, tokenizer, cases in chat.CASES:
        fast = fast_for(template, tokenizer)
        for name, fields in cases:
            arguments = template_arguments(fields)
            result["cases"].append(
                {
                    "template": template,
                    "tokenizer": tokenizer,
                    "name": name,
                    "input": fields,
                    "rendered": fast.apply_chat_template(tokenize=False, **arguments),
                    "ids": fast.apply_chat_template(tokenize=True, **arguments),
                }
            )
    for template, tokenizer, fields, error in chat.REFUSED:
        try:
            fast_for(template, tokenizer).apply_chat_template(
                tokenize=False, **template_arguments(fields)
            )
            raise AssertionError(f"{template}: not refused")
        except jinja2.exceptions.TemplateError as e:
            assert error in str(e)
        result["refused"].append(
            {"template": template, "tokenizer": tokenizer, "input": fields, "error": error}
        )
    for template, tokenizer, fields in chat.LOOK_ALIKES:
        fast = fast_for(template, tokenizer)
        rendered = fast.apply_chat_template(tokenize=False, **template_arguments(fields))
        result["look_alikes"].append(
            {
                "template": template,
                "tokenizer": tokenizer,
                "input": fields,
                "rendered": rendered,
                "ids": ids_with_text_kept(fast, rendered, fields),
            }
        )
    return result


def write_cases(name, fast):
    write(
        HERE / name / "cases.json",
        {
            "vocab_size": len(fast),
            "special_ids": sorted(i for i, t in fast.added_tokens_decoder.items() if t.special),
            "texts": text_cases(fast),
            "decodes": decode_cases(fast),
        },
    )


def demo_cases():
    """The tokenizer and template of the model in deploy/demo-model, as they are there."""
    fast = PreTrainedTokenizerFast.from_pretrained(HERE.parents[2] / "deploy" / "demo-model")
    write_cases("demo", fast)
    cases = []
    for fields in [
        {"messages": chat.PLAIN, "add_generation_prompt": True},
        {"messages": chat.HISTORY},
    ]:
        arguments = template_arguments(fields)
        cases.append(
            {
                "input": fields,
                "rendered": fast.apply_chat_template(tokenize=False, **arguments),
                "ids": fast.apply_chat_template(tokenize=True, **arguments),
            }
        )
    return cases


def main():
    fasts = {}
    for make in (gpt2, llama3, qwen, sentencepiece, metaspace, gemmabytes):
        name = make.__name__
        tokenizer, tokens = make()
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **tokens
        )
        (folder / "tokenizer.json").write_text(
            json.dumps(
                json.loads(fast._tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")
            )
            + "\n"
        )
        write(
            folder / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", **tokens},
        )
        write_cases(name, fast)
        fasts[name] = fast
    cases = template_cases(fasts)
    cases["demo"] = demo_cases()
    write(HERE / "templates.json", cases)


if __name__ == "__main__":
    main()
