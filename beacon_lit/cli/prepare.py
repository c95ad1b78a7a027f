"""Prepare a corpus: `beacon-prepare`, or `python prepare.py` in a checkout; settings: conf/prepare.yaml."""

import logging
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from beacon_lit.arch.checkpoint import load_tokenizer
from beacon_lit.checks import check_writable
from beacon_lit.cli.command import command
from beacon_lit.cli.messages import short_errors
from beacon_lit.data.corpus.prepare import Corpus, prepare_corpus
from beacon_lit.data.corpus.report import write_report
from beacon_lit.data.records import Tolerance
from beacon_lit.data.sources import as_source
from beacon_lit.runs import naming

log = logging.getLogger(__name__)


class _Speed(ProgressColumn):
    """Shows tokens per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{int(task.speed or 0):,} tokens/s")


def prepare(cfg: DictConfig) -> dict[str, Any]:
    """Write the corpus that `cfg` (conf/prepare.yaml) describes, and return its manifest.

    Raises:
        ValueError: a setting is wrong, see `Corpus` and `prepare_corpus`; or too little text, unless
            `corpus.shortage` is "warn".
    """
    folder = Path(cfg.output)
    settings = instantiate(cfg.corpus, _convert_="all")
    sources = {name: as_source(source, cfg.data_root) for name, source in (settings.pop("sources") or {}).items()}
    corpus = Corpus(sources=sources, tolerance=Tolerance(**settings.pop("tolerance")), **settings)
    with naming("tokenizer"):
        tokenizer = load_tokenizer(cfg.tokenizer)
    check_writable("output", folder)
    disable_progress_bars()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, _Speed(), TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task("preparing", total=corpus.tokens)
        manifest = prepare_corpus(corpus, tokenizer, folder, cfg.workers, lambda n: progress.advance(task, n))
    Console().print(Markdown(write_report(folder, manifest)))
    log.info(f"written to {folder}; the corpus shards are {folder}/shards/*")
    return manifest


@command("prepare")
def main(cfg: DictConfig) -> None:
    """Run the command line."""
    with short_errors():
        prepare(cfg)


if __name__ == "__main__":
    main()
