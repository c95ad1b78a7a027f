"""Prompts: a text or a conversation as token ids, and how a long text is cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beacon_lit.chat.template import ChatTemplate
from beacon_lit.chat.tokenizing import common_prefix
from beacon_lit.data.answers import rendered_answers
from beacon_lit.data.encoding import prompt_ids, token_ids
from beacon_lit.data.templates import with_template
from beacon_lit.evaluation.checks import check_choice

AUTO, CHAT, PLAIN = TEMPLATES = ("auto", "chat", "plain")


@dataclass(frozen=True)
class Prompt:
    """Token ids that a model continues.

    Attributes:
        ids: token ids, special tokens included, with at most one beginning-of-sequence token.
        template: "chat" or "plain", which the ids are written in.
        dropped: number of tokens that were cut out of the text.
        tail: number of last tokens that a baseline neither sees nor compresses; None = as many as its settings say.
    """

    ids: list[int]
    template: str = PLAIN
    dropped: int = 0
    tail: int | None = None


def check_template(template: str) -> None:
    """Raise a ValueError unless the template is "auto", "chat" or "plain"."""
    check_choice(TEMPLATES, template=template)


def choose_template(tokenizer: Any, template: str) -> str:
    """Return "chat" or "plain", choosing for "auto" by the tokenizer. Raises ValueError for an unknown template."""
    check_template(template)
    return template if template != AUTO else CHAT if tokenizer.chat_template else PLAIN


def make_prompt(
    tokenizer: Any,
    content: str | Sequence[Mapping[str, str]],
    template: str = AUTO,
    max_tokens: int | None = None,
    answer: str = "",
) -> Prompt:
    """Write a text, or the messages of a conversation, as a prompt.

    Args:
        tokenizer: the model's tokenizer.
        content: a text, which in a chat is the user's turn; or messages with "role" and "content", the last the user's.
        template: "chat" for the tokenizer's chat template; "plain" for the text alone, behind the tokenizer's
            start ids (see `data.encoding`); "auto" for a chat if there is a chat template.
        max_tokens: maximum number of tokens of the text, before the template: see `cut_middle`; None = no limit.
        answer: beginning of the answer, which the model continues.

    Raises:
        ValueError: unknown template, "chat" without a chat template, or messages with "plain" or with `max_tokens`.
    """
    template = choose_template(tokenizer, template)
    if not isinstance(content, str) and (template == PLAIN or max_tokens is not None):
        raise ValueError("messages are not allowed in a plain prompt or with max_tokens; allowed: a text")
    text, dropped = (content, 0) if max_tokens is None else cut_middle(tokenizer, content, max_tokens)
    if template == PLAIN:
        return Prompt(prompt_ids(tokenizer, f"{text}{answer}"), PLAIN, dropped)
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else list(map(dict, text))
    written = ChatTemplate.of(tokenizer, {}).render(tokenizer, messages, prompt=True) + answer
    return Prompt(token_ids(tokenizer, written), CHAT, dropped)


def make_options(
    tokenizer: Any, content: str, answers: Sequence[str], template: str = AUTO
) -> tuple[Prompt, list[list[int]]]:
    """Write a text as a prompt, and possible answers as the tokens that a model would have to generate.

    In a chat an answer takes the place of the assistant's turn, without the token that ends the turn. In plain text a
    space separates text and answer. A token that spans text and answer counts as the answer's.

    Args:
        tokenizer: the model's tokenizer.
        content: the text, in a chat the user's turn.
        answers: at least one.
        template: see `make_prompt`.

    Returns:
        The prompt, which all answers continue, and the token ids of each answer.

    Raises:
        ValueError: unknown template, or "chat" without a chat template.
    """
    template = choose_template(tokenizer, template)
    opening, space = content, " "
    if template == CHAT:
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answers[0]}]
        written, spans = rendered_answers(turns, with_template(tokenizer))
        first = spans[-1][0]
        opening, space = written[:first], written[first : written.index(answers[0], first)]

    encode = prompt_ids if template == PLAIN else token_ids
    prompt, whole = encode(tokenizer, opening), [encode(tokenizer, f"{opening}{space}{answer}") for answer in answers]
    shared = min(common_prefix(prompt, ids) for ids in whole)
    return Prompt(prompt[:shared], template), [ids[shared:] for ids in whole]


def cut_middle(tokenizer: Any, text: Any, max_tokens: int) -> tuple[str, int]:
    """Cut a text to at most `max_tokens` tokens by dropping its middle, as LongBench's own code does.

    The ids that the tokenizer puts before a text, such as a bos token, count among the tokens and in the first half,
    though the text has none. The two halves are decoded and joined, so that the number of tokens may change by one or
    two where they meet.

    Returns:
        The text, and the number of tokens that were dropped.
    """
    ids = prompt_ids(tokenizer, text)
    if len(ids) <= max_tokens:
        return text, 0
    head, tail = ids[: max_tokens // 2], ids[len(ids) - max_tokens // 2 :]
    halves = (tokenizer.decode(half, skip_special_tokens=True) for half in (head, tail))
    return "".join(halves), len(ids) - len(head) - len(tail)
