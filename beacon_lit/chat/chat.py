"""BeaconChat: a conversation whose cache has read exactly what the chat template makes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from beacon_lit.arch import Ratios
from beacon_lit.arch.cache import BeaconCache
from beacon_lit.chat import saved
from beacon_lit.chat.answering import Answering
from beacon_lit.chat.reading import HELD_BACK, Reading
from beacon_lit.chat.template import ChatTemplate, Message
from beacon_lit.chat.tokens import Encoded, encode

_SEPARATOR = "\n\n"  # between the documents and the question of one turn

Progress = Callable[[int, int], None]  # tokens read, tokens in all


class BeaconChat:
    """A conversation with a beacon model, held in a cache.

    What the cache has read is always what the tokenizer makes of the whole conversation as the chat template writes it.
    Where the two part (the template writes earlier turns otherwise once others follow, or an answer's tokens are not
    those of its text), the chat goes back to the last place before that and reads on from there.

    Every step is taken whole or not at all: after an error or a KeyboardInterrupt the conversation is as it was before.
    What an interrupted `read` has reached stays in the cache, and reading the same document again goes on from there.

    Args:
        lm: a `BeaconLM`; it is put into eval mode.
        tokenizer: its tokenizer.
        system: a system message; default: what the template puts there.
        template_options: variables of the chat template, such as `enable_thinking=False`, values as in JSON;
            `chat_template` is another template in place of the tokenizer's.

    Raises:
        ValueError: there is no chat template, or it refuses a system message.
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
        self._encoded = Encoded()
        self._reading = Reading()

    @property
    def messages(self) -> list[Message]:
        """The conversation; documents that wait for a question are a last turn of the user's."""
        documents = _SEPARATOR.join(self._documents)
        opened = [{"role": "user", "content": documents}] if documents else []
        return [*map(dict, self._messages), *opened]

    @property
    def cache(self) -> BeaconCache | None:
        """All that has been read; None at the start."""
        return self._reading.cache

    @property
    def ids(self) -> list[int]:
        """The token ids that the cache has read."""
        return list(self._reading.ids)

    def read(self, document: str, ratios: Ratios | None = None, progress: Progress | None = None) -> None:
        """Read a document into the cache now, as the beginning of the user's turn; several are joined by blank lines.

        The last few tokens, which what follows may still change, are read with the question.

        Args:
            document: text of any length that the model's positions allow.
            ratios: one, or one per window; the last goes on for the rest of the chat. Default: those before, or the
                model's policy.
            progress: called after every chunk with the tokens read, and the tokens to be read, by this call.

        Raises:
            ValueError: an empty document, a ratio that is not allowed or none where the policy wants one, or more
                tokens than the model's positions allow (the message says what would be).
        """
        _check_text("document", document)
        documents = (*self._documents, document)
        content = _SEPARATOR.join(documents) + _SEPARATOR
        encoded = self._encode(self._template.render_open(self.tokenizer, self._messages, content))
        start = self._reading.back_to(encoded.ids).at_ratios(ratios, self.lm.beacon.window)
        reading = self._read(start, encoded.ids[:-HELD_BACK], progress, document=True)
        self._documents, self._encoded, self._reading = documents, encoded, reading.settled()

    def ask(
        self,
        question: str,
        keep: bool = True,
        streamer: Any = None,
        ratios: Ratios | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> str:
        """The model's answer to a question, which ends the user's turn.

        Args:
            question: what to ask.
            keep: whether question and answer become part of the conversation; else it stays as it was.
            streamer: gets the tokens as they come, such as a `transformers.TextStreamer`.
            ratios: as for `read`.
            progress: as for `read`; the question, and what has to be read again for it.
            options: Hugging Face's generation options (`max_new_tokens=512`, `do_sample`, `temperature`, ...); default:
                the model's `generation_config`. An answer ends with the template's end-of-turn token, too, unless
                `eos_token_id` says otherwise.

        Raises:
            ValueError: an empty question, an option that is not allowed, or more tokens than the model's positions
                allow for question and answer.
        """
        _check_text("question", question)
        answering = Answering.of(self.lm, self._end_of_turn, options)
        content = _SEPARATOR.join([*self._documents, question])
        messages = [*self._messages, {"role": "user", "content": content}]
        encoded = self._encode(self._template.render(self.tokenizer, messages, prompt=True))
        prompt = encoded.ids
        reading = self._reading.back_to(prompt[:-1]).at_ratios(ratios, self.lm.beacon.window)
        answering.check_room(self.lm, reading, len(prompt) - len(reading.ids))
        reading = self._read(reading, prompt[:-HELD_BACK], progress)
        answer, cache = answering.generate(self.lm, reading, prompt, streamer)
        text = answering.text(self.tokenizer, answer)
        if keep:
            messages.append({"role": "assistant", "content": text})
            encoded = self._encode(self._template.render(self.tokenizer, messages), encoded)
            reading = reading if cache is None else reading.marked([*prompt, *answer[:-1]], cache)
            self._messages, self._documents = messages, ()
            self._encoded, self._reading = encoded, reading.back_to(encoded.ids).settled()
        return text

    def save(self, folder: str | Path) -> None:
        """Write the conversation and its caches into a folder; what an earlier `save` left there is replaced.

        Raises:
            ValueError: the folder holds something else.
        """
        chat = {
            "messages": self._messages,
            "documents": self._documents,
            "template": {"source": self._template.source, "options": self._template.options},
        }
        saved.save(Path(folder), chat, self._reading, self.tokenizer)

    @classmethod
    def load(cls, folder: str | Path, lm: Any, tokenizer: Any) -> "BeaconChat":
        """Go on with a saved conversation.

        Args:
            folder: written by `save`.
            lm: the model that it was held with.
            tokenizer: its tokenizer.

        Raises:
            ValueError: no saved chat, a damaged one, or one that was held with another model or tokenizer.
        """
        kept, reading = saved.load(Path(folder), lm, tokenizer)
        template = kept["template"]
        chat = cls(lm, tokenizer, chat_template=template["source"], **template["options"])
        chat._messages, chat._documents = kept["messages"], tuple(kept["documents"])
        chat._reading = reading
        return chat

    def _encode(self, text: str, known: Encoded | None = None) -> Encoded:
        return encode(text, self.tokenizer, known or self._encoded)

    def _read(self, start: Reading, ids: list[int], progress: Progress | None, document: bool = False) -> Reading:
        """Read up to the end of `ids`. What is reached of a document is kept at once: an interruption loses nothing."""
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
