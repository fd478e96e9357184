"""Reads the corpus and turns conversations into token ids with a mask of what is learned.

Used by make_tokenizer.py, train.py and evaluate.py. The text formats are described in README.md.
"""
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent / "corpus"
SPECIAL_TOKENS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
]


def _blocks(path):
    """Yields each block of a file as a list of (label, text); a line without a label continues."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        fields = []
        for line in block.strip().split("\n"):
            label, colon, text = line.partition(": ")
            if colon and label in ("Q", "A", "H", "Of"):
                fields.append([label, text])
            elif line and not line.startswith("#"):
                fields[-1][1] += "\n" + line
        if fields:
            yield fields


def load_entries():
    """All answers: a list of {"questions": [canonical, paraphrases...], "answer": text}."""
    entries = []
    for path in sorted((ROOT / "qa").glob("*.txt")):
        for fields in _blocks(path):
            questions = [text for label, text in fields if label == "Q"]
            (answer,) = [text for label, text in fields if label == "A"]
            entries.append({"questions": questions, "answer": answer})
    asked = [q for entry in entries for q in entry["questions"]]
    twice = {q for q in asked if asked.count(q) > 1}
    if twice:
        raise ValueError(f"questions with more than one answer: {sorted(twice)}")
    return entries


def load_heldout(entries):
    """Paraphrases never trained on: a list of (question, expected answer)."""
    answers = {q: entry["answer"] for entry in entries for q in entry["questions"]}
    heldout = []
    for (_, question), (_, canonical) in _blocks(ROOT / "heldout.txt"):
        if question in answers:
            raise ValueError(f"held-out question is also trained on: {question}")
        heldout.append((question, answers[canonical]))
    return heldout


def load_prose():
    """The paragraphs of prose.md, headings left out."""
    text = (ROOT / "prose.md").read_text(encoding="utf-8")
    return [p.replace("\n", " ").strip() for p in text.split("\n\n") if p.strip()[:1] != "#"]


def encode_chat(tokenizer, turns, system=None):
    """(ids, learned) of a conversation; learned marks answer tokens and their <|end|>.

    Equal to the chat template, token by token; train.py checks that on start.
    """
    bos, _, sys_id, user, assistant, end = tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS)
    ids, learned = [bos], [False]

    def add(tokens, learn):
        ids.extend(tokens)
        learned.extend([learn] * len(tokens))

    def plain(text):
        return tokenizer.encode(text, add_special_tokens=False)

    if system is not None:
        add([sys_id, *plain(system), end], False)
    for question, answer in turns:
        add([user, *plain(question), end, assistant], False)
        add([*plain(answer), end], True)
    return ids, learned
