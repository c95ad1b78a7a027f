"""A chat on a terminal: a progress bar for reading, questions, and answers token by token."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from transformers import TextStreamer

from beacon_lit.arch import BeaconCache, Ratios
from beacon_lit.chat.chat import BeaconChat

_EXIT = "/exit"


class _Answer(TextStreamer):
    """Prints an answer token by token, and counts the tokens."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.tokens = 0

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt's ids, (1, L), then the answer's ids, (1,) at a time."""
        self.tokens += 0 if self.next_tokens_are_prompt else value.numel()
        super().put(value)


def read(chat: BeaconChat, text: str, name: str, ratios: Ratios | None, console: Console) -> None:
    """Read a text into a chat, with a progress bar that shows the speed and the size of the cache."""
    console.print(f"reading {name}")
    started = time.perf_counter()
    with Progress(BarColumn(20), TextColumn("{task.description}"), console=console) as bar:
        task = bar.add_task(f"{len(text):,} characters", total=None)

        def show(done: int, total: int) -> None:
            speed = done / (time.perf_counter() - started)
            about = f"{done:,} of {total:,} tokens → {held(chat.cache)}, {speed:,.0f} tokens/s"
            bar.update(task, completed=done, total=total, description=about)

        chat.read(text, ratios, show)
        bar.update(task, completed=bar.tasks[task].total or 1, total=bar.tasks[task].total or 1)


def asked(console: Console) -> Iterator[str]:
    """Yield questions from the terminal or a pipe, up to the end, /exit or Ctrl-C; empty lines are no questions."""
    if sys.stdin.isatty():
        console.print(f"ask; {_EXIT}, Ctrl-D or Ctrl-C ends", style="dim")
    while True:
        try:
            question = console.input("\n[bold]> [/]")
        except (EOFError, KeyboardInterrupt):
            return console.print()
        if not sys.stdin.isatty():
            console.print(question)  # a terminal shows the question already, a pipe does not
        if question.strip() == _EXIT:
            return
        if question.strip():
            yield question


def printed(questions: Iterable[str], console: Console) -> Iterator[str]:
    """Yield questions, and print each before it is answered."""
    for question in questions:
        console.print(f"\n> {question}", style="bold")
        yield question


def answer(chat: BeaconChat, question: str, keep: bool, options: dict[str, Any], console: Console) -> dict[str, Any]:
    """Ask, print the answer token by token, and return question, answer, seconds and tokens."""
    streamer = _Answer(chat.tokenizer)
    started = time.perf_counter()
    text = chat.ask(question, keep=keep, streamer=streamer, **options)
    seconds = time.perf_counter() - started
    speed = streamer.tokens / seconds
    console.print(f"tokens: {streamer.tokens:,} in {seconds:.1f} s, {speed:.1f} a second", style="dim")
    return {"question": question, "answer": text, "seconds": seconds, "tokens": streamer.tokens}


def held(cache: BeaconCache | None) -> str:
    """Describe a cache, such as "1,040 slots (3.9x), 22.8 MiB": 3.9 times fewer slots than tokens."""
    if cache is None:
        return "0 slots"
    slots = cache.rows[0].slots
    return f"{slots:,} slots ({cache.seen_tokens / slots:.1f}x), {cache.nbytes / 2**20:,.1f} MiB"
