"""What is around a document that is asked about: plain text, or one exchange of a chat."""

from dataclasses import dataclass
from typing import Any

from beacon_lit.data.retrieval.tokens import token_ids, tokens_before

# Characters of Unicode's private use area: in no text, and nothing that a template strips.
_USER, _ASSISTANT = "\ue0b8", "\ue0b9"


@dataclass(frozen=True)
class Closing:
    """What comes behind the document.

    ids: question, answer, and what ends it
    start, stop: `ids[start:stop]` is the answer and the token that ends it (end of text, or of the assistant's turn)
    """

    ids: list[int]
    start: int
    stop: int


@dataclass(frozen=True)
class Frame:
    """The text around a document, the same for all samples.

    tokenizer: decides on what begins and ends a text
    head: text at the start (in a chat: up to what the user says)
    prefix: ids before it, such as the bos token
    before_answer, after_answer: text around what the assistant says; None without a chat
    """

    tokenizer: Any
    head: str
    prefix: tuple[int, ...]
    before_answer: str | None
    after_answer: str

    def opening(self, announcement: str) -> list[int]:
        """Ids before the document."""
        return [*self.prefix, *token_ids(self.tokenizer, self.head + announcement)]

    def closing(self, question: str, stem: str, answer: str) -> Closing:
        """Ids behind the document. The stem begins the answer in plain text; an assistant speaks without."""
        if self.before_answer is None:
            before = f"\n\n{question} {stem} "
            ids = [*token_ids(self.tokenizer, before + answer), self.tokenizer.eos_token_id]
            return Closing(ids, tokens_before(self.tokenizer, before, ids), len(ids))
        before = f"\n\n{question}{self.before_answer}"
        end = self.after_answer.rstrip() or self.after_answer  # a line break behind the end of turn is not the answer's
        ids = token_ids(self.tokenizer, before + answer + self.after_answer)
        start = tokens_before(self.tokenizer, before, ids)
        return Closing(ids, start, tokens_before(self.tokenizer, before + answer + end, ids))


def plain_frame(tokenizer: Any) -> Frame:
    """Text as it is, between the tokenizer's bos (where it puts one) and eos. Raises ValueError without an eos."""
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token (eos_token)")
    start = tokenizer("")["input_ids"][:1]
    prefix = tuple(start) if start and start[0] == tokenizer.bos_token_id else ()
    return Frame(tokenizer, head="", prefix=prefix, before_answer=None, after_answer="")


def chat_frame(tokenizer: Any) -> Frame:
    """The tokenizer's chat template: document and question are the user's, the answer is the assistant's.

    Raises ValueError: the tokenizer has no chat template, or one that rewrites what is said.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"chat=True: the tokenizer {tokenizer.name_or_path!r} has no chat template")
    asked = [{"role": "user", "content": _USER}]
    answered = [*asked, {"role": "assistant", "content": _ASSISTANT}]
    text = tokenizer.apply_chat_template(answered, tokenize=False)
    head, user, rest = text.partition(_USER)
    before, assistant, after = rest.partition(_ASSISTANT)
    if not (user and assistant):
        raise ValueError(f"chat=True: the chat template of {tokenizer.name_or_path!r} must render user and assistant")
    return Frame(tokenizer, head=head, prefix=(), before_answer=before, after_answer=after)
