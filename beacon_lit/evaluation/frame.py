"""What is around a long text that is asked about, as token ids: so that a prompt can be made exact to the token."""

from dataclasses import dataclass
from typing import Any

from beacon_lit.chat.template import ChatTemplate
from beacon_lit.data.retrieval.token_ids import token_ids
from beacon_lit.evaluation.prompts import AUTO, CHAT, PLAIN, check_template

# Characters of Unicode's private use area: in no text, and nothing that a template strips.
_FIRST, _ANSWER, _SECOND = "\ue0b7", "\ue0b8", "\ue0b9"


@dataclass(frozen=True)
class Frame:
    """The text around a document and its questions.

    Attributes:
        tokenizer: the model's.
        template: "chat" or "plain", which of them this is.
        prefix: ids before all text, such as the bos token; a chat template writes its own.
        head: text before the user's first words.
        ask: text between a question and the answer; in plain text the answer's stem is there.
        again: text between an answer and the user's next words.
    """

    tokenizer: Any
    template: str
    prefix: tuple[int, ...]
    head: str
    ask: str
    again: str

    @classmethod
    def of(cls, tokenizer: Any, template: str = AUTO, stem: str = " Answer:") -> "Frame":
        """What `make_prompt` would write around a text.

        Args:
            tokenizer: the model's.
            template: "chat" for the tokenizer's chat template, "plain" for none, "auto" for a chat where there is one.
            stem: what a plain text's answer begins with; an assistant speaks without.

        Raises:
            ValueError: another template, a chat without a template, or one that refuses two questions.
        """
        check_template(template)
        if template == PLAIN or (template == AUTO and not tokenizer.chat_template):
            start = tokenizer("")["input_ids"][:1]
            prefix = tuple(start) if start and start[0] == tokenizer.bos_token_id else ()
            return cls(tokenizer, PLAIN, prefix, head="", ask=stem, again="\n\n")
        chat = ChatTemplate.of(tokenizer, {})
        asked = [{"role": "user", "content": _FIRST}]
        head, _, ask = chat.render(tokenizer, asked, prompt=True).partition(_FIRST)
        turns = [*asked, {"role": "assistant", "content": _ANSWER}, {"role": "user", "content": _SECOND}]
        again = chat.render(tokenizer, turns, prompt=True).partition(_ANSWER)[2].partition(_SECOND)[0]
        return cls(tokenizer, CHAT, (), head, ask, again)

    def opening(self, announcement: str) -> list[int]:
        """Ids up to the document."""
        return [*self.prefix, *token_ids(self.tokenizer, self.head + announcement)]

    def question(self, question: str) -> list[int]:
        """Ids from the document's end to where the answer begins."""
        return token_ids(self.tokenizer, f"\n\n{question}{self.ask}")

    def next_question(self, question: str) -> list[int]:
        """Ids from an answer's end (without the token that ends it) to where the next answer begins."""
        return token_ids(self.tokenizer, f"{self.again}{question}{self.ask}")
