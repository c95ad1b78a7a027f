"""The tasks, one file each."""

from beacon_lit.evaluation.tasks.passkey import Passkey
from beacon_lit.evaluation.tasks.perplexity import Perplexity

__all__ = ["Passkey", "Perplexity"]
