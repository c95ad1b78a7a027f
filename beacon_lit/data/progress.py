"""What Lightning counts in a checkpoint, in whole optimizer steps of any number of ranks."""

from typing import Any

from beacon_lit.data.loader import Share


def move_progress(loops: dict[str, Any], then: Share, now: Share) -> None:
    """Change the batches that a checkpoint's "loops" count from those of a share `then` to those of `now`.

    A step that was begun counts as not begun. Where ranks or accumulated batches differ a new epoch begins.
    """
    progress = loops["fit_loop"]["epoch_loop.batch_progress"]
    same = (then.world_size, then.accumulate) == (now.world_size, now.accumulate)
    for part, keep in (("total", True), ("current", same)):
        count = now.position(progress[part]["processed"], vars(then)) if keep else 0
        progress[part].update(dict.fromkeys(("ready", "started", "processed", "completed"), count))
