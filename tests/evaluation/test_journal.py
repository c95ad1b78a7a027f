import json

import pytest

from beacon_lit.evaluation.journal import Journal, read_records


def record(id, mode="dense", **more):
    return {"task": "t", "mode": mode, "id": id, **more}


def killed(folder, records):
    """The file of a rank that wrote records, and is gone."""
    journal = Journal(folder)
    journal.add(records)
    return journal.file


def test_what_is_added_is_found_by_the_next_journal_of_the_folder(tmp_path):
    records = [record("a", text="line\u2028break\x85\n\ud800"), record("b", nll=float("inf"))]
    Journal(tmp_path / "new" / "run", 3).add(records)
    found = Journal(tmp_path / "new" / "run")
    assert found.find("t", "dense", ["b", "a"]) == records[::-1]
    assert found.find("t", "dense", ["a", "c"]) is None, "a batch is asked whole"
    assert found.find("t", "ratio 4", ["a"]) is None


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_a_kill_cut_short_is_as_if_it_were_not_there(tmp_path, cut):
    file = killed(tmp_path, [record("a"), record("b")])
    text = file.read_bytes()
    file.write_bytes(text[:-cut])
    again = Journal(tmp_path)
    assert again.find("t", "dense", ["a"])
    again.add([record("c")])
    assert [line["id"] for line in read_records(file)] == ["a", "c"]


def test_a_broken_line_elsewhere_is_refused(tmp_path):
    file = killed(tmp_path, [record("a"), record("b")])
    file.write_text(file.read_text()[10:])
    with pytest.raises(ValueError, match=r"predictions.rank0.jsonl, line 1: malformed record"):
        Journal(tmp_path)
    file.write_text('{"task": "t"}\n')
    with pytest.raises(ValueError, match="line 1: malformed record: KeyError"):
        Journal(tmp_path)


def test_lines_end_at_line_breaks_alone(tmp_path):
    file = tmp_path / "predictions.jsonl"
    file.write_text(json.dumps(record("a", text="line\u2028break\x85"), ensure_ascii=False) + "\n", encoding="utf-8")
    assert [line["text"] for line in read_records(file)] == ["line\u2028break\x85"]


def test_closing_puts_one_file_in_place_of_those_of_the_ranks(tmp_path):
    for rank in range(2):
        Journal(tmp_path, rank).add([record(str(rank))])
    Journal.close(tmp_path, iter([record("1"), record("0")]))
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.jsonl"]
    assert [json.loads(line)["id"] for line in (tmp_path / "predictions.jsonl").open()] == ["1", "0"]
    assert Journal(tmp_path).find("t", "dense", ["0", "1"])


def test_a_folder_of_a_run_that_goes_on_is_refused(tmp_path):
    journal = Journal(tmp_path)
    with pytest.raises(ValueError, match="is the folder of a running evaluation"):
        Journal(tmp_path)
    Journal(tmp_path, rank=1).add([record("b")])
    journal.add([record("a")])
    del journal
    assert Journal(tmp_path).find("t", "dense", ["a", "b"])
