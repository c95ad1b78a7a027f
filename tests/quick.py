"""What takes long and is the same in all tests: composing configs, and drawing figures."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import omegaconf._utils
import omegaconf.base
import yaml
from matplotlib.figure import Figure
from omegaconf.grammar_parser import parse

_draw, _save = Figure.draw, Figure.savefig


def parse_once() -> None:
    """Parse YAML with libyaml where there is one, and each interpolation once, for the rest of the process."""
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    omegaconf.base.parse = omegaconf._utils.parse = cache(parse)  # type: ignore[attr-defined]


def leave_figures_blank() -> None:
    """Save figures as small blank images, since drawing takes longer than a small run: elements and files are there."""
    Figure.draw = lambda figure, renderer: None  # type: ignore[method-assign]
    Figure.savefig = lambda figure, file, **options: _save(figure, file, **options | {"dpi": 9})  # type: ignore


@contextmanager
def figures_drawn() -> Iterator[None]:
    """Draw figures inside the block."""
    Figure.draw, Figure.savefig = _draw, _save  # type: ignore[method-assign]
    yield
    leave_figures_blank()
