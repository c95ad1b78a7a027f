"""Statistics of a mixture: samples, tokens and lengths of each source, and what was left out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from beacon_lit.data.show import escaped

COLUMNS = ("source", "samples", "tokens", "share", "loss tokens", "shortest", "median", "longest", "left out")
TOTAL = "all"
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class SourceStatistics:
    """One row of the table.

    Attributes:
        source: name of the source.
        samples, tokens, loss_tokens: counts; loss tokens are the tokens that are trained.
        share: share of all tokens, 0 to 1.
        shortest, median, longest: tokens of a sample; None without samples.
        left_out: number of documents and samples that are left out, by reason.
    """

    source: str
    samples: int
    tokens: int
    loss_tokens: int
    share: float
    shortest: int | None
    median: int | None
    longest: int | None
    left_out: Mapping[str, int] = field(default_factory=dict)

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, one string for each of COLUMNS."""
        lengths = ("-" if length is None else f"{length:,}" for length in (self.shortest, self.median, self.longest))
        counts = (f"{self.samples:,}", f"{self.tokens:,}", f"{self.share:.1%}", f"{self.loss_tokens:,}")
        return self.source, *counts, *lengths, self.reasons() or "-"

    def reasons(self) -> str:
        """Return what was left out, as text."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()) if count)


def statistics(
    parts: Iterable[tuple[str, np.ndarray, np.ndarray]], left_out: Mapping[str, Mapping[str, int]] | None = None
) -> list[SourceStatistics]:
    """Summarise samples: one entry per source in the order of their parts, then one called "all" if there are several.

    Args:
        parts: (source, tokens, trained tokens) of some samples of a source, the latter two (n,) integers; read once.
        left_out: by source and reason, how much was left out; may name sources that have no samples.

    Raises:
        ValueError: a sample with fewer tokens than trained tokens.
    """
    left_out = left_out or {}
    lengths: dict[str, np.ndarray] = {}
    trained: dict[str, int] = {}
    for source, tokens, loss in parts:
        if (wrong := (loss < 0) | (loss > tokens)).any():
            at = int(wrong.argmax())
            raise ValueError(f"{source}: a sample of {tokens[at]} tokens cannot have {loss[at]} trained ones")
        lengths[source] = np.append(lengths.get(source, _NONE), tokens).astype(np.int64)
        trained[source] = trained.get(source, 0) + int(loss.sum())
    everything = np.concatenate([_NONE, *lengths.values()])
    sources = list(dict.fromkeys([*lengths, *left_out]))
    total = int(everything.sum())
    table = [
        _entry(name, lengths.get(name, _NONE), trained.get(name, 0), total, left_out.get(name, {})) for name in sources
    ]
    if len(table) < 2:
        return table
    reasons = sum((Counter(counts) for counts in left_out.values()), Counter[str]())
    return [*table, _entry(TOTAL, everything, sum(trained.values()), total, reasons)]


def _entry(name: str, lengths: np.ndarray, loss: int, total: int, left_out: Mapping[str, int]) -> SourceStatistics:
    tokens = int(lengths.sum())
    least, median, most = (
        (int(lengths.min()), int(np.median(lengths)), int(lengths.max())) if len(lengths) else (None, None, None)
    )
    share = tokens / max(total, 1)
    return SourceStatistics(name, len(lengths), tokens, loss, share, least, median, most, dict(left_out))


def rich_table(entries: Sequence[SourceStatistics]) -> Table:
    """Format statistics for a terminal of at least 80 columns; what was left out is listed below the table."""
    caption = "\n".join(f"left out of {entry.source}: {entry.reasons()}" for entry in entries if entry.reasons())
    table = Table(caption=Text(caption), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption_justify = "left"
    table.add_column(COLUMNS[0], overflow="fold", min_width=8)
    for column in COLUMNS[1:-1]:
        table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(*map(Text, entry.cells()[:-1]), style="bold" if entry.source == TOTAL else None)
    return table


def markdown_table(entries: Sequence[SourceStatistics]) -> str:
    """Format statistics for TensorBoard's text page."""
    rule = ["---" if column in ("source", "left out") else "---:" for column in COLUMNS]
    rows = [list(COLUMNS), rule, *([escaped(cell) for cell in entry.cells()] for entry in entries)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
