"""What a chat template, or plain text, writes around a long document and the questions about it, as token ids.

With it a prompt of several parts can be made exact to the token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from beacon_lit.chat.template import ChatTemplate
from beacon_lit.data.encoding import start_ids, token_ids
from beacon_lit.evaluation.prompts import AUTO, CHAT, PLAIN, check_template

# Characters of Unicode's private use area, which no text contains and no chat template strips.
_FIRST, _ANSWER, _SECOND = "\ue0b7", "\ue0b8", "\ue0b9"


@dataclass(frozen=True)
class TurnMarkup:
    """The parts of a chat template, or of plain text, around user turns and answers.

    Attributes:
        tokenizer: the model's tokenizer.
        template: "chat" or "plain".
        prefix: ids before all text, such as the bos token; empty in a chat, whose template writes its own.
        head: text before the first words of the user.
        ask: text between a question and the answer; in plain text the beginning of the answer.
        again: text between an answer and the next words of the user.
    """

    tokenizer: Any
    template: str
    prefix: tuple[int, ...]
    head: str
    ask: str
    again: str

    @classmethod
    def of(
        cls, tokenizer: Any, template: str = AUTO, stem: str = "", options: Mapping[str, Any] = MappingProxyType({})
    ) -> "TurnMarkup":
        """Take apart what `make_prompt` would write around a text.

        Args:
            tokenizer: the model's tokenizer.
            template: "chat" for the tokenizer's chat template, "plain" for none, "auto" for a chat if there is one.
            stem: beginning of the answer in plain text; a chat has none.
            options: variables of the chat template.

        Raises:
            ValueError: unknown template, "chat" without a chat template, or a chat template that refuses two questions.
        """
        check_template(template)
        if template == PLAIN or (template == AUTO and not tokenizer.chat_template):
            return cls(tokenizer, PLAIN, tuple(start_ids(tokenizer)), head="", ask=stem, again="\n\n")
        chat = ChatTemplate.of(tokenizer, options)
        asked = [{"role": "user", "content": _FIRST}]
        head, _, ask = chat.render(tokenizer, asked, prompt=True).partition(_FIRST)
        turns = [*asked, {"role": "assistant", "content": _ANSWER}, {"role": "user", "content": _SECOND}]
        again = chat.render(tokenizer, turns, prompt=True).partition(_ANSWER)[2].partition(_SECOND)[0]
        return cls(tokenizer, CHAT, (), head, ask, again)

    def opening(self, announcement: str) -> list[int]:
        """Return the ids before the document."""
        return [*self.prefix, *token_ids(self.tokenizer, self.head + announcement)]

    def question(self, question: str) -> list[int]:
        """Return the ids from the end of the document to the beginning of the answer."""
        return token_ids(self.tokenizer, f"\n\n{question}{self.ask}")

    def next_question(self, question: str) -> list[int]:
        """Return the ids from the end of an answer, without its end token, to the beginning of the next answer."""
        return token_ids(self.tokenizer, f"{self.again}{question}{self.ask}")
