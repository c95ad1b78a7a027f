"""Conversations as files, and tasks that are asked about them."""

import json
from pathlib import Path

from beacon_lit.evaluation import Subject, parse_mode, run
from tests.evaluation.fakes import FakeLM, byte_tokenizer

# The fake model copies what followed the latest words before.
SESSION = "My dog is called Rex. I like tea.\n" + "The hills are low. " * 5
MSC = {"context": SESSION, "input": "What is it? My dog is called", "output": "Rex!"}


def write(file: Path, *rows) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def asked(task, mode="dense", tokenizer=None, lm=None, batch_size=2):
    subject = Subject(lm or FakeLM(), tokenizer or byte_tokenizer())
    (score,) = run({"task": task}, subject, [parse_mode(mode)], batch_size=batch_size, progress=False)["task"].values()
    return score


def chat(*contents: str, system: str | None = None) -> dict:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return {"conversations": messages}


TURNS = [
    chat("Who?", "The fox.", "Where?", "In the hills, at night.", "Why?", "To sing.", "Sure?", "Yes."),
    chat("One", "two", system="Count."),
]
