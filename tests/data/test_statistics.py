import html
import io

import numpy as np
import pytest
from rich.console import Console
from tensorboard.plugin_util import markdown_to_safe_html

from beacon_lit.data.statistics import SourceStatistics, markdown_table, rich_table, statistics

PARTS = [
    ("books.json", np.array([100, 300]), np.array([100, 300])),
    ("chat", np.array([10, 20]), np.array([2, 3])),
    ("books.json", np.array([170]), np.array([170])),
]
LEFT_OUT = {"books.json": {"too_short": 7, "too_long": 0}, "empty|_x_": {"invalid_json": 1, "too_short": 2}}


def test_by_hand() -> None:
    books, chat, empty, everything = statistics(iter(PARTS), LEFT_OUT)
    assert books == SourceStatistics("books.json", 3, 570, 570, 0.95, 100, 170, 300, LEFT_OUT["books.json"])
    assert chat == SourceStatistics("chat", 2, 30, 5, 0.05, 10, 15, 20, {})
    assert empty == SourceStatistics("empty|_x_", 0, 0, 0, 0.0, None, None, None, LEFT_OUT["empty|_x_"])
    reasons = {"too_short": 9, "invalid_json": 1}
    assert everything == SourceStatistics("all", 5, 600, 575, 1.0, 10, 100, 300, reasons)


def test_one_source_is_its_own_total_and_none_is_none() -> None:
    assert [entry.source for entry in statistics(PARTS[:1])] == ["books.json"]
    assert statistics([]) == []
    (nothing,) = statistics([], {"x": {"too_short": 1}})
    assert nothing.share == 0 and nothing.cells()[1:] == ("0", "0", "0.0%", "0", "-", "-", "-", "1 too_short")


@pytest.mark.parametrize("row", [("x", 3, 4), ("x", 3, -1)])
def test_more_trained_tokens_than_tokens(row: tuple[str, int, int]) -> None:
    with pytest.raises(ValueError, match=f"x: a sample of 3 tokens cannot have {row[2]} trained ones"):
        statistics([*PARTS, (row[0], np.array([5, row[1]]), np.array([5, row[2]]))])


def test_on_a_terminal_of_80_columns_nothing_is_cut() -> None:
    parts = [("long-llm:gpt/[red]one_detail_book.train.16K.json", np.full(50_000, 20_480), np.full(50_000, 12)), *PARTS]
    out = io.StringIO()
    Console(file=out, width=80).print(rich_table(statistics(parts, LEFT_OUT)))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = "".join(line.split()[0] for line in lines if line.strip())
    assert "long-llm:gpt/[red]one_detail_book.train.16K.json" in text
    (total,) = (line for line in lines if line.strip().startswith("all"))
    assert total.split() == ["all", "50,005", "1,024,000,600", "100.0%", "600,575", "10", "20,480", "20,480"]
    assert "left out of books.json: 7 too_short" in map(str.strip, lines)
    assert "left out of empty|_x_: 1 invalid_json, 2 too_short" in map(str.strip, lines)


def test_markdown_as_tensorboard_shows_it() -> None:
    page = markdown_to_safe_html(markdown_table(statistics(PARTS, LEFT_OUT)))
    cells = [cell.split("</td>")[0] for cell in page.split("<td")[1:]]
    cells = [html.unescape(cell.partition(">")[2]) for cell in cells]
    assert cells[:9] == ["books.json", "3", "570", "95.0%", "570", "100", "170", "300", "7 too_short"]
    assert cells[18] == "empty|_x_" and len(cells) == 36
