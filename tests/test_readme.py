"""The README's examples run as printed."""

import doctest
import re
import shutil
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_conversation_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(>>> .*?)```", README.read_text(), re.DOTALL)
    assert example.count(">>>") < 15
    shutil.copy(README.parent / "LICENSE", tmp_path)
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(example, {}, "README", str(README), 0)
    assert not doctest.DocTestRunner().run(test).failed
    assert (tmp_path / "license-chat").is_dir()
