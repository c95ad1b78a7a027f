"""Find the extension (a placement, a ratio policy) that a config names; each is one module of a package."""

import importlib
import pkgutil
from functools import cache
from types import ModuleType


@cache
def names(package: str) -> tuple[str, ...]:
    """List a package's extensions: the `NAME` of each module that defines one, in alphabetical order."""
    paths = importlib.import_module(package).__path__
    modules = [importlib.import_module(f"{package}.{entry.name}") for entry in pkgutil.iter_modules(paths)]
    return tuple(sorted(module.NAME for module in modules if hasattr(module, "NAME")))


def find(package: str, name: str) -> ModuleType:
    """Return the module of the extension `name`, one of `names(package)`."""
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")
