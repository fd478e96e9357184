#!/usr/bin/env python3
"""Writes golden.json: what Hugging Face transformers makes of small rows of logits.

    pip install -r tests/golden/models/requirements.txt
    python tests/golden/sampling/generate.py

Per case: logits, parameters, prompt and output tokens; the logits after logit bias and repetition
penalty; the tokens that temperature, top-k, top-p and min-p leave (in the order in which
transformers itself applies them); and the log probabilities of the raw logits. Frequency and
presence penalties are no part of transformers; their formula is OpenAI's, written out here in
torch.

A case is taken only if no logit is near a border (a tie at top-k, a sum of probabilities near
top_p, a probability near min_p), where float32 in another order of operations may decide
otherwise.
"""

import json
import pathlib

import torch
import transformers
from transformers.generation import logits_process as lp

HERE = pathlib.Path(__file__).resolve().parent
VOCABULARY = 48
CASES = 40
TOP = 8  # log probabilities per case
MARGIN = 1e-4


def floats(tensor):
    """As many digits as bring a float32 back."""
    return [float(str(x)) for x in tensor.numpy()]


def one_of(generator, values):
    return values[int(torch.randint(len(values), (1,), generator=generator))]


def parameters(generator):
    return dict(temperature=one_of(generator, [0.5, 0.8, 1.0, 1.7]),
                top_k=one_of(generator, [0, 0, 3, 10, 30]),
                top_p=one_of(generator, [1.0, 1.0, 0.3, 0.8, 0.95]),
                min_p=one_of(generator, [0.0, 0.0, 0.02, 0.1, 0.4]),
                repetition_penalty=one_of(generator, [1.0, 1.3, 1.8, 0.7]),
                frequency_penalty=one_of(generator, [0.0, 0.6, -0.4]),
                presence_penalty=one_of(generator, [0.0, 0.9, -0.3]))


def ruled(logits, prompt, output, bias, p):
    scores = logits
    if bias:
        scores = lp.SequenceBiasLogitsProcessor({(i,): b for i, b in bias})(
            torch.tensor([prompt + output]), scores)
    if p["repetition_penalty"] != 1.0:
        scores = lp.RepetitionPenaltyLogitsProcessor(p["repetition_penalty"])(
            torch.tensor([prompt + output]), scores)
    counts = torch.bincount(torch.tensor(output, dtype=torch.long), minlength=VOCABULARY).float()
    scores = scores - p["frequency_penalty"] * counts
    return scores - p["presence_penalty"] * (counts > 0).float()


def kept(scores, p):
    """Ids that stay, or None when something is near a border."""
    ids = torch.zeros((1, 1), dtype=torch.long)
    scores = lp.TemperatureLogitsWarper(p["temperature"])(ids, scores)
    if p["top_k"] > 0:
        ranked = torch.sort(scores[0], descending=True).values
        if ranked[p["top_k"] - 1] - ranked[p["top_k"]] < MARGIN:
            return None
        scores = lp.TopKLogitsWarper(p["top_k"])(ids, scores)
    if p["top_p"] < 1.0:
        sums = torch.sort(scores.double().softmax(-1)[0], descending=True).values.cumsum(0)
        if (sums - p["top_p"]).abs().min() < MARGIN:
            return None
        scores = lp.TopPLogitsWarper(p["top_p"])(ids, scores)
    if p["min_p"] > 0.0:
        ratios = (scores[0] - scores[0].max()).double().exp()
        if (ratios / p["min_p"] - 1).abs().min() < MARGIN:
            return None
        scores = lp.MinPLogitsWarper(p["min_p"])(ids, scores)
    return torch.nonzero(scores[0] > -torch.inf)[:, 0].tolist()


def case(generator):
    logits = (torch.randn((1, VOCABULARY), generator=generator) * 2.5).float()
    tokens = torch.randint(VOCABULARY // 3, (14,), generator=generator).tolist()
    prompt, output = tokens[:6], tokens[6:]
    bias = [[int(torch.randint(VOCABULARY, (1,), generator=generator)), b] for b in (2.5, -3.0)]
    bias = bias if int(torch.randint(2, (1,), generator=generator)) else []
    if len({i for i, _ in bias}) != len(bias):
        return None
    p = parameters(generator)
    scores = ruled(logits, prompt, output, bias, p)
    stays = kept(scores, p)
    if stays is None:
        return None
    top = torch.topk(torch.log_softmax(logits[0], -1), TOP)
    return dict(p, logits=floats(logits[0]), prompt=prompt, output=output, logit_bias=bias,
                ruled=floats(scores[0]), kept=stays, top_tokens=top.indices.tolist(),
                top_logprobs=floats(top.values))


def main():
    generator = torch.Generator().manual_seed(20)
    cases = []
    while len(cases) < CASES:
        made = case(generator)
        if made is not None:
            cases.append(made)
    versions = dict(torch=torch.__version__, transformers=transformers.__version__)
    with open(HERE / "golden.json", "w") as out:
        out.write('{"versions": ' + json.dumps(versions) + ',\n"cases": [\n')
        out.write(",\n".join(json.dumps(c) for c in cases) + "\n]}\n")


if __name__ == "__main__":
    main()
