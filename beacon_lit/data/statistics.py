"""What a mixture is made of: samples, tokens and lengths of each source, and what was left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from beacon_lit.data.show import escaped

COLUMNS = ("source", "samples", "tokens", "share", "loss tokens", "shortest", "median", "longest", "left out")
TOTAL = "all"


@dataclass(frozen=True)
class SourceStatistics:
    """One row of the table.

    source: its name
    samples, tokens, loss_tokens: counts; loss tokens are those that are trained
    share: of all tokens, 0 to 1
    shortest, median, longest: tokens of a sample; None where there is none
    left_out: what did not become a sample, by reason
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
        """As text, one for each of COLUMNS."""
        lengths = ("-" if length is None else f"{length:,}" for length in (self.shortest, self.median, self.longest))
        counts = (f"{self.samples:,}", f"{self.tokens:,}", f"{self.share:.1%}", f"{self.loss_tokens:,}")
        return self.source, *counts, *lengths, self.reasons() or "-"

    def reasons(self) -> str:
        """What was left out, as text."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()) if count)


def statistics(
    rows: Iterable[tuple[str, int, int]], left_out: Mapping[str, Mapping[str, int]] | None = None
) -> list[SourceStatistics]:
    """One entry per source, in the order in which they come up; of several, one called "all" at the end.

    rows: (source, tokens, trained tokens) of every sample; read once
    left_out: by source, how much was left out for which reason. A source may have nothing else

    Raises ValueError: a sample with fewer tokens than trained ones.
    """
    left_out = left_out or {}
    lengths: dict[str, list[int]] = {}
    trained: dict[str, int] = {}
    for source, length, loss in rows:
        if not 0 <= loss <= length:
            raise ValueError(f"{source}: a sample of {length} tokens cannot have {loss} trained ones")
        lengths.setdefault(source, []).append(length)
        trained[source] = trained.get(source, 0) + loss
    total = sum(map(sum, lengths.values()))
    sources = list(dict.fromkeys([*lengths, *left_out]))
    table = [
        _entry(name, lengths.get(name, []), trained.get(name, 0), total, left_out.get(name, {})) for name in sources
    ]
    if len(table) < 2:
        return table
    reasons: dict[str, int] = {}
    for counts in left_out.values():
        for reason, count in counts.items():
            reasons[reason] = reasons.get(reason, 0) + count
    everything = [length for found in lengths.values() for length in found]
    return [*table, _entry(TOTAL, everything, sum(trained.values()), total, reasons)]


def _entry(name: str, lengths: list[int], loss: int, total: int, left_out: Mapping[str, int]) -> SourceStatistics:
    tokens = sum(lengths)
    shortest, median, longest = (min(lengths), int(np.median(lengths)), max(lengths)) if lengths else (None, None, None)
    share = tokens / max(total, 1)
    return SourceStatistics(name, len(lengths), tokens, loss, share, shortest, median, longest, dict(left_out))


def rich_table(entries: Sequence[SourceStatistics], title: str | None = None) -> Table:
    """For the terminal, 80 columns or more. What was left out stands below the table, a line for each source."""
    caption = "\n".join(f"left out of {entry.source}: {entry.reasons()}" for entry in entries if entry.reasons())
    table = Table(title=title, caption=Text(caption), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.add_column(COLUMNS[0], overflow="fold", min_width=8)
    for column in COLUMNS[1:-1]:
        table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(*map(Text, entry.cells()[:-1]), style="bold" if entry.source == TOTAL else None)
    return table


def markdown_table(entries: Sequence[SourceStatistics]) -> str:
    """For TensorBoard's text page."""
    rule = ["---" if column in ("source", "left out") else "---:" for column in COLUMNS]
    rows = [list(COLUMNS), rule, *([escaped(cell) for cell in entry.cells()] for entry in entries)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
