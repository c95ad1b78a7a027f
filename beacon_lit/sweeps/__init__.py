"""Compare the runs of a sweep in one table and one figure."""

from beacon_lit.sweeps.callback import SweepCallback
from beacon_lit.sweeps.report import report

__all__ = ["SweepCallback", "report"]
