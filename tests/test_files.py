import pytest

from beacon_lit.files import replacing, write_text


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


def test_half_of_a_surrogate_pair_is_written_as_its_escape(tmp_path):
    write_text(tmp_path / "a.txt", "é\ud83d")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é\\ud83d"
