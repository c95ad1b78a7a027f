"""The share of all batches that one process trains on, and positions when the number of processes changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """Every `world_size`-th of all batches, from number `rank` on.

    Args:
        rank: number of this process among all.
        world_size: number of processes.
        accumulate: batches of one optimizer step on each rank.
    """

    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    def position(self, batches: int, then: Mapping[str, int]) -> int:
        """Convert a number of batches trained on by each rank of the share `then` (`asdict`) to batches of this share.

        Only whole optimizer steps count. A step of this share that was begun is trained on as a whole.
        """
        steps = batches // then["accumulate"]
        all_batches = steps * then["accumulate"] * then["world_size"]
        return all_batches // (self.world_size * self.accumulate) * self.accumulate


def move_progress(loops: dict[str, Any], then: Share, now: Share) -> None:
    """Convert the batches counted in a Lightning checkpoint's "loops" from the share `then` to the share `now`.

    An optimizer step that was begun counts as not begun. Where the shares differ, a new epoch begins.
    """
    progress = loops["fit_loop"]["epoch_loop.batch_progress"]
    same = (then.world_size, then.accumulate) == (now.world_size, now.accumulate)
    for part, keep in (("total", True), ("current", same)):
        count = now.position(progress[part]["processed"], vars(then)) if keep else 0
        progress[part].update(dict.fromkeys(("ready", "started", "processed", "completed"), count))
