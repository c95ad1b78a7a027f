"""Keep memory within a budget of slots, or of MiB of keys and values, whatever the length of the sequence.

Every window gets the smallest ratio at which it and all windows to come fit into the rest of the budget. Once not even
the largest ratio fits, windows leave nothing in memory. The rest of the budget follows from the slots in use, so the
policy remembers nothing. The number of windows to come follows from `total_length` if the call passes it, else from
the tokens read so far; a sequence that grows beyond this length fills the budget early.
"""

from dataclasses import dataclass

from beacon_lit.arch.ratios.policy import Choice, Draw, Limits, Ratio, RatioPolicy, RowWindows, count_argument

NAME, SPELLED = "budget", "budget-N or budget-NMiB"


@dataclass(frozen=True)
class Budget:
    """The policy `budget-N` or `budget-NMiB`.

    Attributes:
        amount: the budget, in slots or MiB per row.
        mebibytes: whether `amount` is in MiB.
    """

    amount: int
    mebibytes: bool = False
    plans_ahead: bool = True

    def choose(self, windows: RowWindows, limits: Limits, draw: Draw | None) -> Choice:
        """See `RatioPolicy`."""
        budget = self.amount * 2**20 // limits.slot_bytes if self.mebibytes else self.amount
        left = budget - windows.memory
        closing = (windows.length - 1) // limits.window  # windows that close, as far as the length is known
        allowed = sorted(limits.ratios)
        ratios: list[Ratio] = []
        for index in range(windows.first, windows.first + windows.count):
            sink = 0 if index else limits.sink  # the first window brings the sink
            room, to_come = left - sink, max(closing - index, 1)
            last = allowed[-1] if limits.window // allowed[-1] <= room else "drop"
            ratio: Ratio = next((one for one in allowed if limits.window // one * to_come <= room), last)
            if index == windows.first and windows.given is not None:
                ratio = windows.given
            if isinstance(ratio, int):
                left -= sink + (limits.window // ratio if ratio else limits.window - sink)
            ratios.append(ratio)
        return Choice(tuple(ratios))


def policy(argument: str | None) -> RatioPolicy:
    """See `RatioPolicy`."""
    amount = count_argument(NAME, argument, 1, f"{SPELLED}, N at least 1", unit="MiB")
    return Budget(amount, mebibytes=str(argument).endswith("MiB"))
