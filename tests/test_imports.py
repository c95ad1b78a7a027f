"""Who may import whom. Arrows point one way, inside `arch` and between packages; there is no circle."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "beacon_lit"
ARCH = f"{PACKAGE}.arch"

# From the bottom up: a module imports from its own floor and from those below it.
FLOORS = (
    ("extensions", "head_budgets", "placements", "ratios"),
    ("config",),
    ("plan",),
    ("nn",),
    ("cache", "cache_export", "cache_files"),
    ("core",),
    ("checkpoint", "flops"),
    ("inference",),
    ("scoring", "output"),
    ("model",),
    ("families",),
)
FORBIDDEN = {
    "arch": ("lightning", "hydra", "omegaconf", "datasets"),
    "data": ("lightning", "hydra", "omegaconf"),
    "evaluation": ("lightning", "hydra"),
    "chat": ("lightning", "hydra", "omegaconf"),
    "serving": ("lightning", "hydra", "omegaconf"),
    "vllm": ("lightning", "hydra", "omegaconf", "datasets"),
}
PUBLIC_ARCH_ONLY = ("data", "evaluation", "chat", "objectives", "serving")


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imports(name: str, source: str | None = None) -> list[str]:
    """What a module imports anywhere in it, types included; of `from package import module` the module."""
    return list(_imports(name, MODULES[name].read_text() if source is None else source))


def _imports(name: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


@cache
def all_at_start(name: str) -> list[str]:
    """What a module of ours imports when it is imported itself."""
    tree = ast.parse(MODULES[name].read_text())
    source = ast.unparse(ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], []))
    return imports(name, source)


def at_start(name: str) -> Iterator[str]:
    """What of it is ours."""
    yield from (other for other in all_at_start(name) if other in MODULES and other != name)


def reached(name: str) -> set[str]:
    """The modules of ours that importing one of them imports, packages around them included."""
    found, ahead = set(), [name]
    while ahead:
        if (module := ahead.pop()) and module not in found:
            found.add(module)
            ahead += [module.rpartition(".")[0], *at_start(module)]
    return found


def floor(name: str) -> int:
    """The floor of a module of `arch`."""
    part = name.removeprefix(f"{ARCH}.").split(".")[0]
    (number,) = (i for i, parts in enumerate(FLOORS) if part in parts)
    return number


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(f"{ARCH}.")])
def test_arrows_inside_arch_point_down(name: str) -> None:
    for other in imports(name):
        if other.startswith(f"{ARCH}."):
            assert floor(other) <= floor(name), f"{name} imports {other}, which is above it"


def test_an_arrow_up_would_show() -> None:
    source = "from beacon_lit.arch import core"
    assert [floor(other) > floor(f"{ARCH}.plan.layout") for other in imports(f"{ARCH}.plan.layout", source)] == [True]


def test_there_is_no_circle() -> None:
    graph = {name: set(at_start(name)) for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")
    with pytest.raises(CycleError):  # a circle would show
        TopologicalSorter({**graph, f"{ARCH}.config": {f"{ARCH}.core"}}).prepare()


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_that_stay_away_from_libraries(package: str) -> None:
    for name in MODULES:
        if f"{name}.".startswith(f"{PACKAGE}.{package}."):
            found = {other.split(".")[0] for other in imports(name)} & set(FORBIDDEN[package])
            assert not found, f"{name} imports {', '.join(sorted(found))}"


@pytest.mark.parametrize("command", ["convert", "generate", "harness", "head_budgets", "look", "prepare", "serve"])
def test_commands_that_train_nothing_start_without_lightning(command: str) -> None:
    """Importing it takes more than a second."""

    def needing(name: str) -> set[str]:
        return {module for module in reached(name) if any(o.startswith("lightning") for o in all_at_start(module))}

    assert not needing(f"{PACKAGE}.cli.{command}")
    assert f"{PACKAGE}.cli.train" in needing(f"{PACKAGE}.cli.train")


def test_one_module_needs_vllm_and_no_other_imports_it() -> None:
    needing = [name for name in MODULES if any(other.split(".")[0] == "vllm" for other in imports(name))]
    assert needing == [f"{PACKAGE}.vllm.connector"]
    assert not [name for name in MODULES if needing[0] in imports(name)]


def test_arch_knows_nothing_else_of_ours() -> None:
    for name in MODULES:
        if name.startswith(ARCH):
            others = {o for o in imports(name) if o.startswith(PACKAGE) and not o.startswith(ARCH)} - {
                f"{PACKAGE}.checks"
            }
            assert not others, f"{name} imports {others}"


@pytest.mark.parametrize("package", PUBLIC_ARCH_ONLY)
def test_others_use_public_names_of_arch(package: str) -> None:
    for name in MODULES:
        if f"{name}.".startswith(f"{PACKAGE}.{package}."):
            inside = [other for other in imports(name) if other.startswith(f"{ARCH}.")]
            assert not inside, f"{name} imports {inside}; allowed: names of {ARCH}"


def test_tests_mirror_the_package() -> None:
    """Each folder of the package has one of its tests, and each folder of tests one of the package."""
    ours = {str(path.parent.relative_to(ROOT / PACKAGE)) for path in MODULES.values() if path.parent != ROOT / PACKAGE}
    tests = {str(path.parent.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("test_*.py")} - {"."}
    assert not tests - ours - {"benchmarks", "distributed"}, "folders of tests that mirror nothing"
    tops = {folder.split("/")[0] for folder in ours}
    assert not tops - {folder.split("/")[0] for folder in tests} - {"strategies"}, "folders without tests"
