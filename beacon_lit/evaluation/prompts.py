"""Prompts: text, or a conversation, as the token ids that a model reads; and how a text that is too long is cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beacon_lit.chat.template import ChatTemplate
from beacon_lit.chat.tokenizing import common_prefix
from beacon_lit.data.answers import rendered_answers
from beacon_lit.data.templates import with_template

AUTO, CHAT, PLAIN = TEMPLATES = ("auto", "chat", "plain")


@dataclass(frozen=True)
class Prompt:
    """What a model is asked to go on from.

    Attributes:
        ids: token ids, special tokens included; a beginning-of-sequence token is there once at most.
        template: "chat" or "plain", how they were written.
        dropped: tokens that were cut out of the text's middle.
    """

    ids: list[int]
    template: str = PLAIN
    dropped: int = 0


def check_template(template: str) -> None:
    """ValueError unless it is one of "auto", "chat" and "plain"."""
    if template not in TEMPLATES:
        raise ValueError(f"template={template!r} is not allowed; allowed: {', '.join(TEMPLATES)}")


def choose_template(tokenizer: Any, template: str) -> str:
    """Either "chat" or "plain", whichever `template` ("auto", too) comes to. Raises ValueError if it is another."""
    check_template(template)
    return template if template != AUTO else CHAT if tokenizer.chat_template else PLAIN


def make_prompt(
    tokenizer: Any,
    content: str | Sequence[Mapping[str, str]],
    template: str = AUTO,
    max_tokens: int | None = None,
    answer: str = "",
) -> Prompt:
    """A text, or the messages of a conversation, as a prompt.

    Args:
        tokenizer: the model's.
        content: the text, which in a chat is the user's turn; or messages of "role" and "content", the last the user's.
        template: "chat" for the tokenizer's chat template, "plain" for the text as it is, with the tokenizer's special
            tokens; "auto" for a chat where there is a template.
        max_tokens: a longer text is cut in the middle before it is put into the template: see `cut_middle`.
        answer: what the answer begins with already.

    Raises:
        ValueError: another template, a chat without a template, a plain prompt of messages, or messages to be cut.
    """
    template = choose_template(tokenizer, template)
    if not isinstance(content, str) and (template == PLAIN or max_tokens is not None):
        raise ValueError("messages are not allowed in a plain prompt or with max_tokens; allowed: a text")
    text, dropped = (content, 0) if max_tokens is None else cut_middle(tokenizer, content, max_tokens)
    if template == PLAIN:
        return Prompt(tokenizer(f"{text}{answer}", verbose=False)["input_ids"], PLAIN, dropped)
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else list(map(dict, text))
    written = ChatTemplate.of(tokenizer, {}).render(tokenizer, messages, prompt=True) + answer
    return Prompt(tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"], CHAT, dropped)


def make_options(
    tokenizer: Any, content: str, answers: Sequence[str], template: str = AUTO
) -> tuple[Prompt, list[list[int]]]:
    """A text as a prompt, and some answers to it as the tokens that a model would have to write.

    In a chat an answer stands where the template puts what an assistant says, without the end of its turn; otherwise a
    space is between the text and an answer. A token that the text shares with an answer is one of the answer's.

    Args:
        tokenizer: the model's.
        content: the text, in a chat the user's turn.
        answers: at least one.
        template: see `make_prompt`.

    Returns:
        The prompt that all answers go on from, and for each answer its token ids.

    Raises:
        ValueError: another template, or a chat without one.
    """
    template = choose_template(tokenizer, template)
    opening, space = content, " "
    if template == CHAT:
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answers[0]}]
        written, spans = rendered_answers(turns, with_template(tokenizer))
        first = spans[-1][0]
        opening, space = written[:first], written[first : written.index(answers[0], first)]

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=template == PLAIN, verbose=False)["input_ids"]

    prompt, whole = encode(opening), [encode(f"{opening}{space}{answer}") for answer in answers]
    shared = min(common_prefix(prompt, ids) for ids in whole)
    return Prompt(prompt[:shared], template), [ids[shared:] for ids in whole]


def cut_middle(tokenizer: Any, text: Any, max_tokens: int) -> tuple[str, int]:
    """A text of at most `max_tokens` tokens, and how many are gone: its first and its last half are kept.

    As LongBench's own code does it: the halves are decoded and joined, so that the text may have a token or two more or
    less where they meet.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) <= max_tokens:
        return text, 0
    head, tail = ids[: max_tokens // 2], ids[len(ids) - max_tokens // 2 :]
    halves = (tokenizer.decode(half, skip_special_tokens=True) for half in (head, tail))
    return "".join(halves), len(ids) - len(head) - len(tail)
