"""The documentation is right: examples run as printed; names, paths, links and command lines exist."""

import doctest
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException

from beacon_lit import BeaconCache, BeaconChat, BeaconConfig, BeaconLM
from beacon_lit.arch import BeaconOutput
from tests.configs import ROOT, composed

README = ROOT / "README.md"
PAGES = sorted([README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
CONFIGS = sorted((ROOT / "conf").rglob("*.yaml"))
GROUPS = sorted(file.name for file in (ROOT / "conf").iterdir() if file.is_dir())
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
PLACEHOLDER = re.compile(r"<\w+>")  # conf/model/<family>.yaml
OBJECTS = {"lm": BeaconLM.families["llama"], "cache": BeaconCache, "chat": BeaconChat, "out": BeaconOutput}


def names(text: str) -> set[tuple[str, str]]:
    """The imported names, and the attributes of `OBJECTS` and of public classes, in a text: (owner, name)."""
    imports = re.findall(r"^(?:>>> )?from (beacon_lit[\w.]*) import ([\w, ]+)$", text, re.MULTILINE)
    found = {(module, name.strip()) for module, listed in imports for name in listed.split(",")}
    owners = "|".join([*OBJECTS, "BeaconCache", "BeaconChat", "BeaconLM"])
    return found | set(re.findall(rf"(?<![\w./-])({owners})\.([a-z]\w*)", text))


def exists(owner: str, name: str) -> bool:
    """Whether a module, an object of `OBJECTS` or a public class has a name."""
    if owner.startswith("beacon_lit"):
        return hasattr(import_module(owner), name)
    place = OBJECTS.get(owner) or getattr(import_module("beacon_lit"), owner)
    return hasattr(place, name) or name in getattr(place, "__dataclass_fields__", {})


def paths(table_row: str) -> Iterator[str]:
    """The paths in backticks in a table row, without placeholders."""
    for code in re.findall(r"`([^`]+)`", table_row):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", code) and ("/" in code or code.endswith((".py", ".md"))):
            yield code


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The command lines of this repository's scripts in a text: (name of the config, overrides)."""
    scripts = "|".join(file.stem for file in (ROOT / "conf").glob("*.yaml"))
    for line in re.sub(r"\\\n[ #]*", " ", text).splitlines():
        match = re.match(rf"(?:#? *|.*[`:] )(?:\w+=\S+ )*(?:python|torchrun.*?) ({scripts})\.py (.*)", line)
        if match:
            words = shlex.split(match[2].split("`")[0], comments=True)
            yield match[1], [word for word in words if re.match(r"(~|\+?[\w./@]+=[^$]+$)", word)]


def single(word: str) -> str:
    """An override as a single run of a sweep gets it."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    if override.is_interval_sweep():
        return f"{override.get_key_element()}={override.value().start}"  # type: ignore[union-attr]
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


COMMANDS = sorted({(name, *words) for page in [*PAGES, *CONFIGS] for name, words in commands(page.read_text())})


def test_the_conversation_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(>>> .*?)```", README.read_text(), re.DOTALL)
    assert example.count(">>>") < 15
    shutil.copy(README.parent / "LICENSE", tmp_path)
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(example, {}, "README", str(README), 0)
    assert not doctest.DocTestRunner().run(test).failed
    assert (tmp_path / "license-chat").is_dir()


def test_every_public_name_exists() -> None:
    found = names(README.read_text())
    assert {("beacon_lit", "BeaconChat"), ("lm", "compress"), ("out", "token_loss"), ("chat", "ask")} <= found
    assert not {pair for pair in found if not exists(*pair)}
    assert not exists("lm", "no_such_name") and not exists("out", "no_such_name")


def test_every_argument_of_the_config_exists() -> None:
    given = {
        name
        for call in re.findall(r"BeaconConfig\(([^)]*)\)", README.read_text())
        for name in re.findall(r"(\w+)=", call)
    }
    assert "window" in given and given <= set(BeaconConfig.__dataclass_fields__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_every_path_of_a_table_exists(page: Path) -> None:
    text = page.read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]
    rows = [row for row in text.splitlines() if row.startswith("|") and "beacon_lit/" in row]
    assert not [path for row in rows for path in paths(row) if not (ROOT / path).exists()]


def test_every_path_of_a_checklist_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = [path for path in re.findall(r"`((?:beacon_lit|conf|tests|docs)/[^` ]+)`", text)]
    assert len(listed) > 40
    assert not [path for path in listed if not (ROOT / PLACEHOLDER.sub("", path).rpartition("/")[0]).is_dir()]
    assert not [path for path in listed if "<" not in path and not (ROOT / path).exists()]


def test_the_readme_names_every_group_of_conf() -> None:
    (row,) = re.findall(r"^\| `conf/` \| .*`([a-z ]+)` \|$", README.read_text(), re.MULTILINE)
    assert sorted(row.split()) == GROUPS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_console_script_exists(page: Path) -> None:
    assert not set(re.findall(r"\bbeacon-[a-z-]+(?= |`)", page.read_text())) - set(SCRIPTS)


@pytest.mark.parametrize("line", COMMANDS, ids=" ".join)
def test_every_command_line_composes(line: tuple[str, ...]) -> None:
    composed(line[0], *map(single, line[1:]))


def test_a_wrong_command_line_would_show() -> None:
    (wrong,) = commands("    python train.py -m optimizer.no_such=1,2  # no comment=1")
    assert wrong == ("train", ["optimizer.no_such=1,2"])
    with pytest.raises(ConfigCompositionException, match="no_such"):
        composed("train", *map(single, wrong[1]))
