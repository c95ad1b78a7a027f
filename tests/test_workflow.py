"""The workflow of continuous integration asks for what exists."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.configs import ROOT


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]


def test_every_target_is_in_the_makefile(jobs: dict[str, Any]) -> None:
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    asked = {command.split()[1] for command in commands if command.startswith("make ")}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"lint", "setup", "test"} == asked <= targets


def test_the_oldest_versions_are_the_lower_bounds(jobs: dict[str, Any]) -> None:
    (oldest,) = [case for case in jobs["test"]["strategy"]["matrix"]["include"] if "pins" in case]
    pins = dict(pin.split("==") for pin in oldest["pins"].split())
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = dict(found.groups() for text in asked if (found := re.match(r"([\w-]+)>=([\d.]+)", text)))
    assert {"torch", "transformers", "lightning"} == pins.keys()
    assert pins == {name: f"{bounds[name]}.*" for name in pins}
