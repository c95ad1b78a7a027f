"""Text enough for several ranks."""

from pathlib import Path

import pytest

from tests.configs import small_backbone, small_text


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small backbone, and text to train on."""
    folder = tmp_path_factory.mktemp("inputs")
    return small_backbone(folder / "backbone"), small_text(folder / "text.jsonl", 40)
