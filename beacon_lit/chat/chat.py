"""BeaconChat: a conversation, and a cache that has read exactly the text that the chat template makes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from beacon_lit.arch import BeaconCache, Ratios
from beacon_lit.chat import saved
from beacon_lit.chat.answering import Answering
from beacon_lit.chat.reading import HELD_BACK, Reading
from beacon_lit.chat.template import ChatTemplate, Message
from beacon_lit.chat.tokenizing import TokenizedText, tokenize

_SEPARATOR = "\n\n"  # between the documents and the question of one turn

Progress = Callable[[int, int], None]  # tokens read, tokens in all


class BeaconChat:
    """A conversation with a beacon model, held in a cache.

    The cache has always read the tokens of the whole conversation as the chat template writes it. Where the cache and
    the template's text differ (a template may write earlier turns differently once others follow, or an answer's tokens
    may not be the tokens of its text), the chat returns to the last common place and reads from there.

    After an error or a KeyboardInterrupt, the conversation is as before the call. The cache keeps what an interrupted
    `read` has reached, and reading the same document again continues from there.

    Args:
        lm: a `BeaconLM`, which is put into eval mode.
        tokenizer: the model's tokenizer.
        system: a system message; default: the template's own.
        template_options: variables of the chat template, such as `enable_thinking=False`, values as in JSON;
            `chat_template` replaces the tokenizer's template.

    Raises:
        ValueError: there is no chat template, or the template refuses a system message.
    """

    def __init__(self, lm: Any, tokenizer: Any, system: str | None = None, **template_options: Any) -> None:
        if system is not None:
            _check_text("system", system)
        self.lm, self.tokenizer = lm.eval(), tokenizer
        self._template = ChatTemplate.of(tokenizer, template_options)
        self._messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._template.render_open(tokenizer, self._messages, "")
        self._end_of_turn = self._template.end_of_turn(tokenizer)
        self._documents: tuple[str, ...] = ()
        self._tokenized = TokenizedText()
        self._reading = Reading()

    @property
    def messages(self) -> list[Message]:
        """The conversation; documents without a question yet form a last turn of the user."""
        documents = _SEPARATOR.join(self._documents)
        opened = [{"role": "user", "content": documents}] if documents else []
        return [*map(dict, self._messages), *opened]

    @property
    def cache(self) -> BeaconCache | None:
        """The cache of all that was read; None at the start."""
        return self._reading.cache

    @property
    def ids(self) -> list[int]:
        """Token ids that the cache has read."""
        return list(self._reading.ids)

    def read(self, document: str, ratios: Ratios | None = None, progress: Progress | None = None) -> None:
        """Read a document into the cache, as the beginning of the user's turn; blank lines separate several documents.

        The last few tokens, which may still change with the text behind them, are read with the question.

        Args:
            document: text of any length that the model's positions allow.
            ratios: one ratio, or one per window; the last applies to the rest of the chat. Default: the ratios so far,
                or the model's policy.
            progress: called after every chunk with two numbers: tokens read, and tokens to read, by this call.

        Raises:
            ValueError: an empty document, a ratio that is not allowed, no ratio where the policy needs one, or more
                tokens than the model's positions allow.
        """
        _check_text("document", document)
        documents = (*self._documents, document)
        content = _SEPARATOR.join(documents) + _SEPARATOR
        tokenized = self._tokenize(self._template.render_open(self.tokenizer, self._messages, content))
        start = self._reading.back_to(tokenized.ids).at_ratios(ratios, self.lm.beacon.window)
        reading = self._read(start, tokenized.ids[:-HELD_BACK], progress, document=True)
        self._documents, self._tokenized, self._reading = documents, tokenized, reading.settled()

    def ask(
        self,
        question: str,
        keep: bool = True,
        streamer: Any = None,
        ratios: Ratios | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> str:
        """Ask a question, which ends the user's turn, and return the model's answer.

        Args:
            question: what to ask.
            keep: whether question and answer become part of the conversation, which otherwise stays unchanged.
            streamer: receives the tokens one by one, such as a `transformers.TextStreamer`.
            ratios: see `read`.
            progress: see `read`; counts the question, and text that must be read again.
            options: Hugging Face's generation options (`max_new_tokens=512`, `do_sample`, `temperature`, ...); default:
                the model's `generation_config`. The template's end-of-turn token ends an answer as well, unless
                `eos_token_id` is given.

        Raises:
            ValueError: an empty question, an option that is not allowed, or more tokens for question and answer than
                the model's positions allow.
        """
        _check_text("question", question)
        answering = Answering.of(self.lm, self._end_of_turn, options)
        content = _SEPARATOR.join([*self._documents, question])
        messages = [*self._messages, {"role": "user", "content": content}]
        tokenized = self._tokenize(self._template.render(self.tokenizer, messages, prompt=True))
        prompt = tokenized.ids
        reading = self._reading.back_to(prompt[:-1]).at_ratios(ratios, self.lm.beacon.window)
        answering.check_room(self.lm, reading, len(prompt) - len(reading.ids))
        reading = self._read(reading, prompt[:-HELD_BACK], progress)
        answer, cache = answering.generate(self.lm, reading, prompt, streamer)
        text = answering.text(self.tokenizer, answer)
        if keep:
            messages.append({"role": "assistant", "content": text})
            tokenized = self._tokenize(self._template.render(self.tokenizer, messages), tokenized)
            reading = reading if cache is None else reading.marked([*prompt, *answer[:-1]], cache)
            self._messages, self._documents = messages, ()
            self._tokenized, self._reading = tokenized, reading.back_to(tokenized.ids).settled()
        return text

    def save(self, folder: str | Path) -> None:
        """Write the conversation and its caches into a folder; a chat saved there earlier is replaced.

        Raises:
            ValueError: the folder has other contents.
        """
        chat = {
            "messages": self._messages,
            "documents": self._documents,
            "template": {"source": self._template.source, "options": self._template.options},
        }
        saved.save(Path(folder), chat, self._reading, self.tokenizer)

    @classmethod
    def load(cls, folder: str | Path, lm: Any, tokenizer: Any) -> "BeaconChat":
        """Continue a saved conversation.

        Args:
            folder: written by `save`.
            lm: the model of the conversation.
            tokenizer: the model's tokenizer.

        Raises:
            ValueError: no saved chat, a damaged one, or one with another model or tokenizer.
        """
        kept, reading = saved.load(Path(folder), lm, tokenizer)
        template = kept["template"]
        chat = cls(lm, tokenizer, chat_template=template["source"], **template["options"])
        chat._messages, chat._documents = kept["messages"], tuple(kept["documents"])
        chat._reading = reading
        return chat

    def _tokenize(self, text: str, known: TokenizedText | None = None) -> TokenizedText:
        return tokenize(text, self.tokenizer, known or self._tokenized)

    def _read(self, start: Reading, ids: list[int], progress: Progress | None, document: bool = False) -> Reading:
        """Read up to the end of `ids`; chunks of a document are kept at once, so that an interruption loses nothing."""
        reading = start
        for reading in start.read(self.lm, ids, document):
            if document:
                self._reading = reading
            if progress is not None:
                progress(len(reading.ids) - len(start.ids), len(ids) - len(start.ids))
        return reading


def _check_text(name: str, text: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name}={text!r:.80} is not allowed; allowed: text that is not empty")
