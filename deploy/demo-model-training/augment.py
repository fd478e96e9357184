"""Turns the corpus into training conversations: varied questions, history, system prompts.

Used by train.py alone. All choices come from the random.Random it is given. Variations never
produce a held-out paraphrase, so that accuracy on these stays honest.
"""
import re

import corpus

SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "You are the Tessera demo model.",
    "You answer questions about Tessera and LLM serving in one to three sentences.",
    "Be brief.",
    "You are a friendly and precise assistant for the operators of a cluster.",
    "Answer truthfully. If you do not know, say so.",
    "You are a helpful, honest and concise assistant.",
    "Answer in one short paragraph.",
]
TURNS = [1, 1, 1, 1, 1, 2, 2, 2, 3, 5]  # turns of a conversation, drawn evenly
OPENERS = ["Please tell me: ", "Quick question: ", "I wonder: ", "And ", "So, ", "Ok, ", "Hi! "]
REWRITES = [  # (pattern, replacements) for whole questions
    (
        r"What (?:is|are) ((?:a |an |the )?[\w-]+(?: [\w-]+){0,3})\?",
        [
            "What's {}?",
            "Explain {}.",
            "Explain what {} is.",
            "Can you explain {}?",
            "Tell me about {}.",
            "Describe {}.",
            "What is meant by {}?",
            "What do you know about {}?",
            "{}?",
        ],
    ),
    (
        r"(How|Why|When|Where|Which|What) (.*)\?",
        ["{} {}", "Can you tell me: {} {}?", "{} {}, please?", "I want to know: {} {}?"],
    ),
]


def normalised(text):
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def vary(question, rng):
    """One random variation of a question; half of the time the question as it is."""
    if rng.random() < 0.5:
        return question
    for pattern, replacements in REWRITES:
        match = re.fullmatch(pattern, question)
        if match and rng.random() < 0.45:
            question = rng.choice(replacements).format(*match.groups())
            question = question[0].upper() + question[1:]
            break
    words = question.split(" ")
    if len(words) > 4 and rng.random() < 0.3:  # a word is missing
        del words[rng.randrange(len(words) - 1)]
        question = " ".join(words)
    if len(words) > 2 and rng.random() < 0.2:
        question = rng.choice(OPENERS) + question
    if rng.random() < 0.2:
        question = question.lower()
    if rng.random() < 0.2:
        question = question.rstrip("?.!")
    return question


def epoch_samples(tokenizer, entries, heldout, prose, rng):
    """(ids, learned) samples of one epoch: every question once, and every paragraph once."""
    banned = {normalised(question) for question, _ in heldout}
    exact = {q for entry in entries for q in entry["questions"]}
    pairs = []
    for entry in entries:
        for question in entry["questions"]:
            varied = vary(question, rng)
            if normalised(varied) in banned or varied in exact:
                varied = question  # another entry's wording would teach a wrong answer
            pairs.append((varied, entry["answer"]))
    rng.shuffle(pairs)
    samples = []
    while pairs:
        count = rng.choice(TURNS)
        turns, pairs = pairs[:count], pairs[count:]
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.25 else None
        samples.append(corpus.encode_chat(tokenizer, turns, system))
    bos, eot = tokenizer.convert_tokens_to_ids(corpus.SPECIAL_TOKENS[:2])
    for paragraph in prose:
        ids = [bos, *tokenizer.encode(paragraph, add_special_tokens=False), eot]
        samples.append((ids, [False] + [True] * (len(ids) - 1)))
    return samples


def batches(samples, tokens_per_batch, rng):
    """Groups samples of similar length into batches of bounded padded size, in random order."""
    by_length = sorted(samples, key=lambda s: len(s[0]) + 8 * rng.random())
    result, batch = [], []
    for sample in by_length:
        if batch and (len(batch) + 1) * len(sample[0]) > tokens_per_batch:
            result.append(batch)
            batch = []
        batch.append(sample)
    result.append(batch)
    rng.shuffle(result)
    return result
