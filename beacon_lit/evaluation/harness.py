"""Runs the tasks of EleutherAI's lm-evaluation-harness on a model under one mode:

beacon-harness --model_args checkpoint=outputs/latest,ratio=4 --tasks hellaswag --batch_size 8

This is `lm_eval` with the model `beacon_lm`; all other options are those of `lm_eval`. From Python:

    import lm_eval
    from beacon_lit.evaluation.harness import HarnessLM
    lm_eval.simple_evaluate(HarnessLM(Reader(Subject(lm, tokenizer), parse_mode(4))), tasks=["hellaswag"])
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from omegaconf import OmegaConf
from tqdm import tqdm

from beacon_lit.arch import longest
from beacon_lit.data.encoding import prompt_ids, token_ids
from beacon_lit.evaluation.execution import execute
from beacon_lit.evaluation.modes import Mode, choose_modes
from beacon_lit.evaluation.prompts import CHAT, PLAIN, Prompt
from beacon_lit.evaluation.reader import Reader
from beacon_lit.evaluation.requests import Answer, Generate, Request, ScoreOptions, ScoreText
from beacon_lit.evaluation.runner import evaluating
from beacon_lit.evaluation.task import Subject
from beacon_lit.runs import subject

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, simple_parse_args_string
except ImportError as error:
    raise ValueError("lm-evaluation-harness is not installed; allowed: pip install 'beacon_lit[harness]'") from error

log = logging.getLogger(__name__)

MODEL_NAME = "beacon_lm"
_ELSEWHERE = ("until", "max_gen_toks", "do_sample", "temperature", "num_beams")
_PENALTIES = ("no_repeat_ngram_size", "repetition_penalty")
_SAMPLING = ("min_p", "top_k", "top_p")  # change nothing in a greedy answer


@register_model(MODEL_NAME)
class HarnessLM(TemplateLM):
    """Executes the harness's requests as our own (`ScoreOptions`, `ScoreText`, `Generate`).

    Contexts and continuations are tokenised as the harness does it with Hugging Face models, chat templates included,
    except that no EOS token is put behind a text, even if the tokenizer appends one. Answers are greedy. A text that is
    longer than `max_length` loses its start; in `loglikelihood_rolling` it is cut into parts in each of which
    `max_length` tokens are read and the token behind them is scored as well; each part, except for the first, begins
    with the last token of the part before. One process executes all requests.

    Args:
        reader: the model, its tokenizer and the mode.
        batch_size: number of texts that are read at once.
        max_length: maximum tokens of a text; None = as many as the model's positions hold in this mode.

    Raises:
        ValueError: a batch size or a length out of range.
    """

    def __init__(self, reader: Reader, batch_size: int = 1, max_length: int | None = None) -> None:
        super().__init__()
        lm, mode = reader.subject.lm, reader.mode
        self._most = most = _most_tokens(lm, mode)
        self.reader, self.tokenizer = reader, reader.subject.tokenizer
        self.batch_size, self.max_length = int(batch_size), most if max_length is None else max_length
        self._device = lm.device
        if self.batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is not allowed; allowed: at least 1")
        if not 2 <= self.max_length <= most:
            raise ValueError(f"max_length={max_length} is not allowed; allowed: 2 to {most}, what {mode.name} can read")

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> "HarnessLM":
        """Make a model from a string such as "checkpoint=outputs/latest,ratio=4": see `create_from_arg_obj`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> "HarnessLM":
        """Make a model from the arguments of `lm_eval`.

        Args:
            arg_dict: `--model_args`: `checkpoint` (as for beacon-evaluate), `ratio` (a ratio, "adapt-N", "dense" or
                "window-only"), and optionally `max_length`, `backbone`, `dtype`, `attn`.
            additional_config: `batch_size`, `device`.

        Raises:
            ValueError: an unknown argument, a missing `checkpoint` or `ratio`, or a model that cannot be loaded.
        """
        given = {name: value for name, value in {**arg_dict, **(additional_config or {})}.items() if value is not None}
        options = {name: given.pop(name) for name in ("backbone", "dtype", "attn") if name in given}
        device = _device(given.pop("device", "cuda"))
        asked = {name: given.pop(name) for name in ("batch_size", "max_length") if name in given}
        checkpoint, ratio = given.pop("checkpoint", None), given.pop("ratio", None)
        given.pop("max_batch_size", None)  # for the harness's automatic batch sizes
        if given or checkpoint is None or ratio is None:
            raise ValueError(
                f"model_args: {', '.join(given) or 'checkpoint or ratio missing'}; needed: checkpoint=, ratio= (a "
                "ratio, adapt-N, dense or window-only); allowed: max_length=, backbone=, dtype=, attn="
            )
        if not str(asked.get("batch_size", 1)).isdigit():
            raise ValueError(f"batch_size={asked['batch_size']} is not allowed; allowed: a number")
        where = {
            "checkpoint": str(checkpoint),
            "backbone": options.pop("backbone", None),
            "allow_other_backbone": False,
        }
        lm, tokenizer = subject(OmegaConf.create({**where, "model": {"path": None, "backbone": options}}), device)
        return cls(Reader(Subject(lm, tokenizer), choose_modes(lm, [ratio])[0]), **asked)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token that replaces an empty context: the tokenizer's bos, or else its eos."""
        return self.tokenizer.eos_token_id if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id

    @property
    def tokenizer_name(self) -> str:
        """The name that the harness's cache of requests uses."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Write a conversation as text that ends with the opening of an answer, or else with an unfinished message.

        As in the harness's own models, a system message that the template refuses is left out, with a warning.
        """
        options = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return self.tokenizer.apply_chat_template(chat_history, **options)
        except TemplateError as error:
            others = [message for message in chat_history if message["role"] != "system"]
            if len(others) == len(chat_history):
                raise
            log.warning(f"the chat template refuses these messages ({error}); asked without the system message")
            return self.tokenizer.apply_chat_template(others, **options)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokenise a text, behind the tokenizer's start ids unless a chat template has written them."""
        return (token_ids if add_special_tokens is False else prompt_ids)(self.tokenizer, string)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """See `LM`: return the log likelihood of all tokens of each text, the first given `prefix_token_id`."""
        # The last token of a window is not read by the harness, but by `ScoreText`; the text must fit with it.
        most = self.max_length if self.reader.mode.is_dense else min(self.max_length, self._most - 1)
        texts: list[ScoreText] = []
        parts: list[tuple[int, int]] = []  # of each text: number of the request, scored tokens
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(ids, self.prefix_token_id, most, context_len=1)
            for read, scored in windows:
                texts.append(ScoreText([*read, scored[-1]]))
                parts.append((number, len(scored)))
        totals = [0.0] * len(requests)
        for i, answer in self._answers(texts, "loglikelihood_rolling", disable_tqdm):
            number, scored = parts[i]
            losses = answer["losses"]
            totals[number] -= losses[len(losses) - scored :].sum().item()
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """See `LM`: return greedy answers. With a chat template an end-of-turn token also ends an answer."""
        template = CHAT if self.tokenizer.chat_template else PLAIN
        prompts = []
        for request in requests:
            most, until, penalties = _greedy_settings(request.args[1])
            ids = _end(self.tok_encode(request.args[0]), self.max_length - most, f"max_gen_toks={most}")
            prompts.append(Generate(Prompt(ids, template), most, until, penalties=penalties))
        found = [""] * len(requests)
        for i, answer in self._answers(prompts, "generate_until", disable_tqdm):
            found[i] = answer["prediction"]
            self.cache_hook.add_partial("generate_until", requests[i].args, found[i])
        return found

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """See `TemplateLM`. Continuations that differ only in the last token are options of one prompt."""
        groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for number, (_, context, continuation) in enumerate(requests):
            room = self.max_length + 1 - len(continuation)
            ids = _end(context, room, f"a continuation of {len(continuation)} tokens")
            groups.setdefault((tuple(ids), tuple(continuation[:-1])), []).append(number)
        options = [
            ScoreOptions(Prompt(list(ids)), [requests[number][2] for number in numbers])
            for (ids, _), numbers in groups.items()
        ]
        members, found = list(groups.values()), [(0.0, False)] * len(requests)
        for i, answer in self._answers(options, "loglikelihood", disable_tqdm):
            for number, nll, greedy in zip(members[i], answer["nll"], answer["greedy"], strict=True):
                found[number] = -nll, greedy
                self.cache_hook.add_partial("loglikelihood", requests[number][0], found[number])
        return found

    def _answers(self, requests: Sequence[Request], kind: str, quiet: bool) -> Iterator[tuple[int, Answer]]:
        """Yield the number and the answer of each request, the longest of equal settings first.

        The first batch then needs the most memory.
        """
        order = sorted(range(len(requests)), key=lambda i: (requests[i].settings, -max(requests[i].lengths)))
        for start in tqdm(range(0, len(order), self.batch_size), desc=kind, disable=quiet):
            numbers = order[start : start + self.batch_size]
            with evaluating(self.reader.subject.lm):
                answers = execute(self.reader, [requests[i] for i in numbers])
            yield from zip(numbers, answers, strict=True)


def _device(name: str) -> torch.device:
    """Return the name of a device, or the CPU in place of a GPU that is not there: the harness asks for one always."""
    if not str(name).startswith("cuda") or torch.cuda.is_available():
        return torch.device(name)
    log.info(f"device={name}: no GPU is available; runs on the CPU")
    return torch.device("cpu")


def _most_tokens(lm: Any, mode: Mode) -> int:
    """Return the maximum tokens of a text that the model's positions hold in a mode."""
    if mode.is_dense:
        return lm.positions
    if mode.ratio == "drop":
        return sys.maxsize  # finished windows take no position
    ratio = max(lm.beacon.ratios) if mode.ratio is None else mode.ratio
    return longest(lm.beacon, int(ratio), lm.positions)


def _end(ids: list[int], room: int, needed: str) -> list[int]:
    """Return the last `room` tokens. Raises ValueError if there is no room."""
    if room < 1:
        raise ValueError(f"{needed} leaves no room for a context; allowed: less than max_length")
    if len(ids) > room:
        log.warning(f"a context of {len(ids)} tokens loses the first {len(ids) - room} of them")
    return ids[-room:]


def _greedy_settings(settings: Mapping[str, Any]) -> tuple[int, tuple[str, ...], tuple[tuple[str, Any], ...]]:
    """Return the maximum tokens of an answer, the strings that end it, and penalties as for `Generate`.

    Raises:
        ValueError: the answer would not be greedy, or a setting is unknown.
    """
    known = normalize_gen_kwargs(dict(settings))
    if known["do_sample"] or known.get("num_beams", 1) != 1:
        raise ValueError(
            f"generation_kwargs={dict(settings)} is not allowed; allowed: greedy answers (do_sample=false)"
        )
    for name in known.keys() - {*_PENALTIES, *_ELSEWHERE, *_SAMPLING}:
        allowed = ", ".join((*_ELSEWHERE, *_PENALTIES))
        raise ValueError(f"generation_kwargs: {name}={known[name]!r} is not allowed; allowed: {allowed}")
    penalties = tuple((name, known[name]) for name in _PENALTIES if known.get(name) is not None)
    return known["max_gen_toks"], tuple(filter(None, known["until"])), penalties


if __name__ == "__main__":
    sys.exit("error: `python -m beacon_lit.evaluation.harness` is not a command any more; allowed: beacon-harness")
