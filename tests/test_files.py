import pytest

from beacon_lit.files import remove_partials, replacing, write_text
from tests.killed import half_written


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "first: Ünïcode\n")
    with pytest.raises(RuntimeError), replacing(file) as partial:
        partial.write_text("half")
        assert file.read_text(encoding="utf-8") == "first: Ünïcode\n"
        raise RuntimeError
    assert file.read_text(encoding="utf-8") == "first: Ünïcode\n"
    with replacing(file) as partial:
        partial.write_text("second")
    assert file.read_text() == "second" and [*tmp_path.iterdir()] == [file]


def test_what_a_killed_process_left_is_deleted_and_nothing_else(tmp_path):
    half_written(tmp_path / "a.txt")
    for name in ("a.partial", ".a", "a.txt"):
        (tmp_path / name).touch()
    assert len([*tmp_path.iterdir()]) == 4
    remove_partials(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"a.partial", ".a", "a.txt"}


def test_half_of_a_surrogate_pair_is_written_as_its_escape(tmp_path):
    write_text(tmp_path / "a.txt", "é\ud83d")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é\\ud83d"
