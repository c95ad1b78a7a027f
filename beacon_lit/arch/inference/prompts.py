"""Read the prompts of a generation, a few rows at a time, so that no cache of all rows is needed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.inference.compress import CHUNK_WINDOWS, compress
from beacon_lit.arch.inference.decode import PerRow, of_rows, remaining_ratios
from beacon_lit.arch.plan.rows import check_ids
from beacon_lit.arch.plan.state import RowState


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts, and the sequences that they continue.

    Attributes:
        lm: the model.
        ids: (B, L) int64.
        mask: (B, L) of 0 and 1, padding on the left; None: there is none.
        lengths: tokens of each row.
        before: the cache to continue from.
        places: the row of `before` that each prompt continues.
        ratios: one for all windows; or a list per row, one ratio per window from the open one on; or None, the policy.
        totals: raw tokens that each row will have, for policies that plan ahead.
    """

    lm: BeaconModel
    ids: Tensor
    mask: Tensor | None
    lengths: Sequence[int]
    before: BeaconCache
    places: Sequence[int]
    ratios: PerRow
    totals: Sequence[int] | None

    @property
    def states(self) -> tuple[RowState, ...]:
        """The state of each row before its prompt."""
        return tuple(self.before.rows[place] for place in self.places)

    def plan(self) -> tuple[RowState, ...]:
        """Return the state of each row after its prompt, but for its ids.

        Raises:
            ValueError: prompts that cannot be read, see `BeaconLM.forward`.
        """
        lm, before = self.lm, self.before
        check_ids(self.ids if self.mask is None else self.ids[self.mask.bool()], lm.config.vocab_size, "input_ids")
        draw = lm.draw if lm.training else None
        states = replace(before, rows=self.states, layers=())
        call = lm.plan(self.lengths, states, before.unfinished, self.ratios, draw, self.totals)
        return call.advance([range(length) for length in self.lengths], lm.beacon)

    def noted(self, row: int, read: RowState) -> BeaconCache:
        """Return `before` with what the state of a row that has been `read` notes of a window that stays open.

        These are the window's ratios, and what the policy remembers. Within a window, static buffers note neither.
        """
        place = self.places[row]
        was = self.before.rows[place]
        if read.windows == was.windows:
            was = replace(was, ratios=read.ratios, adapted=read.adapted)
        return replace(self.before, rows=(*self.before.rows[:place], was, *self.before.rows[place + 1 :]))

    def groups(self) -> Iterator[list[int]]:
        """Yield rows to read at once: as many, in order, as have no more slots and new tokens than a chunk has tokens.

        All rows are one group in training mode, where they draw ratios together.
        """
        group: list[int] = []
        size = 0
        for row, (state, length) in enumerate(zip(self.states, self.lengths, strict=True)):
            size += state.slots + length
            if group and size > self._chunk and not self.lm.training:
                yield group
                group, size = [], state.slots + length
            group.append(row)
        yield group

    def select(self, rows: Sequence[int]) -> "Prompts":
        """Return the prompts of some rows."""
        return Prompts(
            self.lm,
            self.ids[rows],
            None if self.mask is None else self.mask[rows],
            [self.lengths[row] for row in rows],
            self.before.select([self.places[row] for row in rows]),
            range(len(rows)),
            of_rows(self.ratios, rows),
            of_rows(self.totals, rows),
        )

    def read(self) -> Any:
        """Read all rows, each of which continues its own: a `BeaconOutput` with (B, 1, V) logits after their last
        tokens, and their cache."""
        last = self._without_heads() if max(self.lengths) > self._chunk else self
        return self.lm(
            last.ids,
            last.mask,
            cache=last.before,
            ratios=last.ratios,
            unfinished=self.before.unfinished,
            logits_to_keep=1,
            total_length=self.totals,
        )

    def _without_heads(self) -> "Prompts":
        """Read all but the last tokens, in chunks, and return what is left."""
        rows = [row for row, length in enumerate(self.lengths) if length > 1]
        heads = self.select(rows)
        mask = None if heads.mask is None else heads.mask[:, :-1]
        read = compress(self.lm, heads.ids[:, :-1], mask, heads.before, heads.ratios, total_length=heads.totals)
        before = self.before.put(rows, read)
        ratios = remaining_ratios(self.ratios, self.before.rows, before.rows)
        return Prompts(self.lm, self.ids[:, -1:], None, [1] * len(self.ids), before, self.places, ratios, self.totals)

    @property
    def _chunk(self) -> int:
        """Most tokens that are read at once."""
        return CHUNK_WINDOWS * self.lm.beacon.window
