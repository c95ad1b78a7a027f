"""Ask about a long text: `beacon-generate`, or `python generate.py` in a checkout; settings: conf/generate.yaml."""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from transformers import set_seed

from beacon_lit import BeaconChat, BeaconLM
from beacon_lit.chat.answering import Answering
from beacon_lit.chat.saved import check_source, check_target
from beacon_lit.chat.terminal import answer, asked, held, printed, read
from beacon_lit.checks import as_tuple, check_writable
from beacon_lit.cli.checks import check_trained
from beacon_lit.cli.command import command
from beacon_lit.cli.messages import short_errors
from beacon_lit.record import reserved
from beacon_lit.runs import save_config, subject

log = logging.getLogger(__name__)

ROOM = 1024  # tokens of questions and answers for which the chosen ratio leaves room


def generate(cfg: DictConfig) -> list[dict[str, Any]]:
    """Read the text of `cfg` (conf/generate.yaml), ask the questions and write the answers to the run folder.

    Returns:
        for every question, a record of the question, the answer, the seconds and the tokens.

    Raises:
        ValueError: nothing to read; a file that is missing, empty or not UTF-8; see also `BeaconChat`.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)  # so that paths can be copied whole
    text, questions = _text(cfg), _questions(cfg, console)
    set_seed(cfg.seed)
    chat = _chat(cfg)
    options: Any = OmegaConf.to_container(cfg.generation)
    Answering.of(chat.lm, None, options)  # a bad option ends here, before anything is read
    folder = Path(cfg.run_folder)
    with reserved(folder):
        save_config(cfg, folder)
        return _answers(cfg, chat, text, questions, options, console)


def _answers(
    cfg: DictConfig, chat: BeaconChat, text: str | None, questions: Iterator[str], options: Any, console: Console
) -> list[dict[str, Any]]:
    """Read the text, ask the questions, write answers.jsonl, and save the chat if `save` is set."""
    if text is not None and not _read(cfg, chat, text, console):
        return []
    answers = []
    with (Path(cfg.run_folder) / "answers.jsonl").open("w", encoding="utf-8") as file:
        for question in questions:
            try:
                answers.append(answer(chat, question, cfg.keep, options, console))
            except (KeyboardInterrupt, ValueError) as error:
                if cfg.questions is not None or cfg.questions_file is not None:
                    raise
                console.print(f"\n{error or 'stopped'}")  # and on to the next question
                continue
            file.write(json.dumps(answers[-1], ensure_ascii=False) + "\n")
            file.flush()
    if cfg.save is not None and cfg.keep:
        chat.save(cfg.save)
    return answers


def _text(cfg: DictConfig) -> str | None:
    """Check all settings of paths before anything slow happens, and return the text to read, None with `load` alone."""
    if cfg.file is None and cfg.load is None:
        raise ValueError("file=null and load=null: nothing to read; allowed: file=book.txt, load=a saved chat, or both")
    if cfg.load is not None:
        check_source(Path(cfg.load))
        for name in ("system", "template"):
            if cfg[name]:
                raise ValueError(
                    f"{name}={cfg[name]} is not allowed beside load, the saved chat has its own; allowed: none"
                )
    if cfg.file is None and cfg.ratio is not None:
        raise ValueError(f"ratio={cfg.ratio} is not allowed without file: nothing is read; allowed: null")
    if cfg.save is not None:
        if cfg.file is None and not cfg.keep:
            raise ValueError(f"save={cfg.save}: nothing new to save; allowed: with file=... or keep=true")
        check_target(Path(cfg.save))
        check_writable("save", Path(cfg.save).absolute().parent)
    return None if cfg.file is None else _read_text("file", cfg.file)


def _read_text(name: str, path: str | Path) -> str:
    """Return the text of the UTF-8 file that the setting `name` gives.

    Raises:
        ValueError: the file is missing, empty or not UTF-8.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{name}={path}: no such file; allowed: a text file in UTF-8")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}={path} is not UTF-8 (byte {error.start}); allowed: a text file in UTF-8") from error
    if not text.strip():
        raise ValueError(f"{name}={path} is empty; allowed: a file with text in it")
    return text


def _questions(cfg: DictConfig, console: Console) -> Iterator[str]:
    """Yield the questions of the settings, printing each, or else the questions typed on the terminal."""
    if cfg.questions is not None and cfg.questions_file is not None:
        raise ValueError(f"questions_file={cfg.questions_file} is not allowed beside questions; allowed: one of them")
    if cfg.questions is not None:
        given = [str(question) for question in as_tuple(cfg.questions)]
        if not all(question.strip() for question in given):
            raise ValueError(f"questions={given} is not allowed; allowed: questions that are not empty")
        return printed(given, console)
    if cfg.questions_file is not None:
        lines = _read_text("questions_file", cfg.questions_file).split("\n")  # splitlines would split at U+2028, too
        return printed([line for line in lines if line.strip()], console)
    return asked(console)


def _chat(cfg: DictConfig) -> BeaconChat:
    """Load the model, and the saved chat if `load` names one."""
    lm, tokenizer = adaptive(cfg)
    cfg.beacon.update(lm.beacon.to_dict())
    if cfg.load is None:
        template: Any = OmegaConf.to_container(cfg.template)
        if (
            cfg.checkpoint is not None
            and template.get("chat_template", tokenizer.chat_template) != tokenizer.chat_template
        ):
            log.warning(f"template.chat_template in place of the chat template of checkpoint={cfg.checkpoint}")
        return BeaconChat(lm, tokenizer, cfg.system, **template)
    return BeaconChat.load(cfg.load, lm, tokenizer)


def adaptive(cfg: DictConfig) -> tuple[BeaconLM, Any]:
    """Load the model and its tokenizer, see `subject`; beacons trained at random ratios get an adaptive one."""
    lm, tokenizer = subject(cfg)
    if lm.beacon.eval_ratio is None and len(lm.beacon.ratios) > 1 and lm.beacon.ratio_policy.startswith("random"):
        lm.beacon = replace(lm.beacon, ratio_policy=f"adapt-{ROOM}")
    return lm, tokenizer


def _read(cfg: DictConfig, chat: BeaconChat, text: str, console: Console) -> bool:
    """Read the text and return whether all of it was read. An interruption keeps what was read until then."""
    try:
        read(chat, text, Path(cfg.file).name, cfg.ratio, console)
        whole = True
    except KeyboardInterrupt:
        console.print(f"stopped at {held(chat.cache)}")
        whole = False
    if cfg.save is not None:
        chat.save(cfg.save)
        console.print(f"kept in {cfg.save}" if whole else f"kept in {cfg.save}; load={cfg.save} goes on from there")
    return whole


@command("generate", check_trained)
def main(cfg: DictConfig) -> None:
    """Run the command line."""
    try:
        with short_errors():
            generate(cfg)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
