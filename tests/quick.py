"""What takes long and is the same in all tests: composing configs, and drawing figures."""

import copy
import gc
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import matplotlib
import omegaconf._utils
import omegaconf.base
import yaml
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.defaults_list import Overrides
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from omegaconf.grammar_parser import parse

CONF = Path(__file__).parents[1] / "conf"
_draw, _save = Figure.draw, Figure.savefig


def parse_once() -> None:
    """Parse YAML with libyaml where there is one, and each interpolation once, for the rest of the process."""
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    omegaconf.base.parse = omegaconf._utils.parse = cache(parse)  # type: ignore[attr-defined]


def leave_figures_blank() -> None:
    """Save figures as small blank images, since drawing takes longer than a small run: elements and files are there."""
    matplotlib.rcParams["figure.dpi"] = 9  # of those that go to TensorBoard
    Figure.draw = lambda figure, renderer: None  # type: ignore[method-assign]
    Figure.savefig = lambda figure, file, **options: _save(figure, file, **options | {"dpi": 9})  # type: ignore


def collect_seldom() -> None:
    """Leave what is imported by now out of garbage collections, and collect less often than Python does.

    Each run, benchmark and test process asks for a collection; Python's own, every 700 objects, take 7 % of the time.
    May be called again, to leave out what has been made since.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


def compose_once() -> None:
    """Read each file of conf/ and of Hydra, choose each list of files, and merge each list once, for the rest of the
    process.

    Processes that are forked from one (tests/warm) leave each other what they have composed, in that one's folder.
    Settings of the command line are applied anew each time. Folders of a test's own are read anew, too. Hydra copies
    the list of folders for each run, and with it all classes that describe configs: those are left where they are.
    """
    known: dict[tuple[Any, ...], bytes] = {}
    read, merge = ConfigRepository.load_config, ConfigLoaderImpl._compose_config_from_defaults_list
    choose = config_loader_impl.create_defaults_list

    def kept(repository: Any, what: tuple[Any, ...], make: Any) -> Any:
        sources = tuple((source.scheme(), source.path) for source in repository.get_sources())
        if any(scheme == "file" and Path(path) != CONF for scheme, path in sources):
            return make()
        if (sources, what) not in known:
            file = shared(sources, what)
            if file and file.exists():
                known[sources, what] = file.read_bytes()
            else:
                try:
                    known[sources, what] = pickle.dumps(make())
                except pickle.PicklingError:  # Hydra imports its plugins again in a job of submitit
                    return make()
                put(file, known[sources, what])
        copied = pickle.loads(known[sources, what])  # ten times as fast as copy.deepcopy
        if isinstance(copied, DictConfig):  # has what resolvers have found, such as the time
            OmegaConf.clear_cache(copied)
        return copied

    def load_config(self: Any, config_path: str) -> Any:
        return kept(self, (config_path,), lambda: read(self, config_path))

    def merged(self: Any, defaults: Any, repo: Any) -> Any:
        return kept(repo, tuple(map(repr, defaults)), lambda: merge(self, defaults, repo))

    def chosen(repo: Any, config_name: str, overrides_list: Any, **options: Any) -> Any:
        settings = Overrides(repo, overrides_list).config_overrides
        files = [override for override in overrides_list if override not in settings]
        what = (config_name, *(override.input_line for override in files), *options.values())
        found = kept(repo, what, lambda: choose(repo, config_name, files, **options))
        found.config_overrides = settings
        return found

    def as_given(self: Any, delegate: Any) -> None:
        self.delegate, self.cache = copy.copy(delegate), {}  # a run that has other folders gets another list

    CachingConfigRepository.__init__ = as_given  # type: ignore[method-assign]
    ConfigRepository.load_config = load_config  # type: ignore[method-assign]
    ConfigLoaderImpl._compose_config_from_defaults_list = merged  # type: ignore[method-assign]
    config_loader_impl.create_defaults_list = chosen  # type: ignore[assignment]


def shared(*what: Any) -> Path | None:
    """The file of what processes forked from one have in common; None where there is no such process."""
    address = os.environ.get("WARM_PYTHON")
    return Path(address).with_name(f"{sha256(repr(what).encode()).hexdigest()}.pickle") if address else None


def put(file: Path | None, content: bytes) -> None:
    """Write a file that other processes may read meanwhile; the folder may have gone with the process behind it."""
    if file is not None:
        with suppress(FileNotFoundError):
            own = file.with_suffix(f".{os.getpid()}")
            own.write_bytes(content)
            own.replace(file)


def share_among_runs() -> None:
    """Make what runs have in common once: blank figures of the same tasks, the page's template, Lightning's plugins."""
    import lightning.fabric.utilities.registry as plugins

    from beacon_lit.callbacks import evaluation as callback
    from beacon_lit.cli import evaluate as command
    from beacon_lit.evaluation.report import page

    known: dict[str, dict[str, Figure]] = {}
    make = command.make_figures

    def make_figures(tasks: Any, runs: Any) -> dict[str, Figure]:
        scores = {label: {name: [*modes] for name, modes in results.items()} for label, results in runs.items()}
        what = repr((tasks, scores))
        if Figure.draw is _draw or what not in known:
            known[what] = make(tasks, runs)
        return known[what]

    callback.make_figures = command.make_figures = make_figures
    page._environment = cache(page._environment)
    plugins.entry_points = cache(plugins.entry_points)


@contextmanager
def figures_drawn() -> Iterator[None]:
    """Draw figures inside the block."""
    Figure.draw, Figure.savefig = _draw, _save  # type: ignore[method-assign]
    matplotlib.rcParams["figure.dpi"] = matplotlib.rcParamsDefault["figure.dpi"]
    yield
    leave_figures_blank()
