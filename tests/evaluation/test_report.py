import json
import re
from base64 import b64decode
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from beacon_lit.evaluation import Passkey, Perplexity, Subject, Task, choose_modes, make_figures, mean_score, run, save
from beacon_lit.evaluation.report.examples import DIFFERENT, FIRST, LONGEST, shortened, shown_examples
from beacon_lit.evaluation.report.facts import fact_rows
from beacon_lit.evaluation.runner import rescore, scored
from tests.evaluation.fakes import FakeLM, byte_tokenizer

pytestmark = pytest.mark.usefixtures("drawn_figures")

TASKS = {"perplexity": Perplexity(length=40, max_pieces=2), "passkey": Passkey(lengths=(256, 300), depths=(0, 50, 100))}
MODES = ["dense", "window-only", "ratio 2", "ratio 4"]
SETTINGS = {"checkpoint": "outputs/a<b", "task": {"passkey": {"_target_": "x.Passkey", "samples": 1}}}
VOID = {"meta", "img"}


class Page(HTMLParser):
    """What is in a page: texts by open elements, attributes, images; a tag that is not closed is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    def attributes(self, tag, name):
        return [attributes[name] for found, attributes in self.tags if found == tag]

    def rows(self):
        return re.findall(r"[^\n]+", "".join(self.texts))


@dataclass(frozen=True)
class Told(Task):
    """A task whose answers are given, as `words`.

    Args:
        higher_is_better: or not.
    """

    higher_is_better: bool = True
    metric = "share"

    def examples(self, subject):
        raise NotImplementedError

    def request(self, subject, example):
        raise NotImplementedError

    def score(self, records):
        return mean_score(records)


def record(mode, id, score, prediction="", **more):
    told = {"task": "told", "mode": mode, "id": id, "score": score, "prediction": prediction}
    return {**told, "tokens_in": 10, "ratio": None, "cache_bytes": 2**20, "seconds": 0.5, **more}


def told(*records, task=Told()):  # frozen
    modes = dict.fromkeys(record["mode"] for record in records)
    return {"told": {mode: scored(task, [record for record in records if record["mode"] == mode]) for mode in modes}}


def written(folder, results, tasks, settings=SETTINGS):
    runs = {"": results}
    save(folder, tasks, runs, make_figures(tasks, runs), settings)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    lm, folder = FakeLM(), tmp_path_factory.mktemp("run")
    subject = Subject(lm, byte_tokenizer(), lambda: [("a", list(range(100)))])
    written(folder, run(TASKS, subject, choose_modes(lm), progress=False), TASKS)
    return folder


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_every_task_mode_score_and_figure_is_there(folder, html):
    page = Page(html)
    text = "".join(page.texts)
    assert "Evaluation of outputs/a<b" in page.texts
    assert set(TASKS) < {attributes.get("id") for tag, attributes in page.tags if tag == "h2"}
    assert all(mode in page.texts for mode in MODES)
    metrics = json.loads((folder / "metrics.json").read_text())
    for task in TASKS:
        for mode in MODES:
            value = metrics[f"{task}/{mode.replace(' ', '_')}"]
            assert (f"{value:.3f}" if value < 10 else f"{value:.2f}") in page.texts
    assert sorted(alt.replace(" ", "_") for alt in page.attributes("img", "alt")) == sorted(
        path.stem for path in folder.glob("*.png")
    )
    assert "share of keys that are retrieved" in text and "samples=1" in text and "x.Passkey" in text
    assert "window_1" in page.texts and "length_300/depth_100" in page.texts


def test_figures_are_whole_and_each_is_with_its_task(html):
    sections = re.split(r'<h2 id="', html)
    for section in sections[1:]:
        task = section[: section.index('"')]
        alts = Page(section[section.index("<figure") : section.rindex("</figure>") + 9]).attributes("img", "alt")
        assert alts and all(alt.startswith(f"{task} ") for alt in alts)
    for source in Page(html).attributes("img", "src"):
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64" and b64decode(data).endswith(b"IEND\xaeB`\x82")


def outside(html):
    """Whatever a page would fetch."""
    page = Page(html)
    names = ("src", "href", "srcset", "poster", "data", "action")
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in names]
    found = [link for link in links if not link.startswith(("#", "data:image/"))]
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, re.S))
    return found + re.findall(r"@import|url\(", styles) + [tag for tag, _ in page.tags if tag in {"script", "link"}]


def test_nothing_is_fetched(html):
    assert outside(html) == []
    assert outside(html.replace("<h1>", '<img src="https://x.org/a.png"><h1>')) == ["https://x.org/a.png"]
    assert outside(html.replace("<style>", "<style>@import 'a.css';")) == ["@import"]


def test_the_command_is_shown_where_it_is_known(html, folder, tmp_path):
    results = rescore(TASKS, folder)
    save(tmp_path, TASKS, {"": results}, {}, {}, "python evaluate.py 'ratio=[2,<4]'")
    assert "python evaluate.py 'ratio=[2,<4]'" in Page((tmp_path / "report.html").read_text()).texts
    assert "command" not in Page(html).texts


def test_what_a_model_says_is_text_and_nothing_else(tmp_path):
    evil = "</td><script>alert('x')</script><img src=http://x.org/y>&amp;"
    records = [record("dense", f"<b>{evil}", 0.5, evil, answers=[evil], ended_by=evil, template=evil)]
    html = written(tmp_path, told(*records), {"told": Told()}, {"checkpoint": evil, "more": evil})
    page = Page(html)
    assert evil in page.texts and f"<b>{evil}" in page.texts and outside(html) == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "b"})


def test_half_of_a_surrogate_pair_is_shown_as_its_escape(tmp_path):
    html = written(tmp_path, told(record("dense", "a", 0.5, "cut \ud83d", answers=["\udc00"])), {"told": Told()})
    assert "cut \\ud83d" in Page(html).texts and "\\udc00" in "".join(Page(html).texts)


def on_a_full_disk(write, name):
    """A function that writes half of the file `name` and fails, and writes others as before."""

    def full(*args, **options):
        file = next(arg for arg in args if isinstance(arg, Path))
        if name not in file.name:
            return write(*args, **options)
        file.write_bytes(b"half")
        raise OSError("no space")

    return full


@pytest.mark.parametrize("name", ["report.html", "metrics.json", "predictions.jsonl", "chart.png"])
def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, name):
    results = told(record("dense", "a", 0.5))
    everything = (tmp_path, {"told": Told()}, {"": results}, {"chart": Figure()}, SETTINGS)
    save(*everything)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(Path, "write_text", on_a_full_disk(Path.write_text, name))
    monkeypatch.setattr(Figure, "savefig", on_a_full_disk(Figure.savefig, name))
    if name == "predictions.jsonl":
        results["told"]["dense"].predictions.append({"not": {"JSON"}})
    with pytest.raises((OSError, TypeError)):
        save(*everything)
    assert (tmp_path / name).read_bytes() == before[name] and {f.name for f in tmp_path.iterdir()} == {*before}


def test_a_run_rescored_without_its_model_gives_the_same_page(folder, html, tmp_path):
    again = written(tmp_path, rescore(TASKS, folder), TASKS)
    assert re.sub(r"date</dt>.*", "", again) == re.sub(r"date</dt>.*", "", html)


def test_the_best_beside_dense_is_marked_in_the_task_s_own_direction(tmp_path):
    scores = [("dense", 0.9), ("window-only", 0.1), ("ratio 2", 0.5), ("ratio 4", 0.3)]
    for better, best in ((True, "0.500"), (False, "0.100")):
        task = Told(better)
        html = written(tmp_path, told(*(record(mode, "a", score) for mode, score in scores)), {"told": task})
        assert re.findall(r'class="best">([^<]*)<', html) == [best]
    alike = told(*(record(mode, "a", 0.5) for mode, _ in scores))
    assert 'class="best"' not in written(tmp_path, alike, {"told": Told()})


def test_examples_are_the_first_and_those_on_which_modes_differ_most():
    spread = {f"e{i}": (1.0, 1.0) for i in range(20)} | {"e9": (1.0, 0.0), "e15": (0.0, 0.5), "e7": (0.0, 0.0)}
    records = [record(m, id, s) for id, both in spread.items() for m, s in zip(("dense", "ratio 2"), both, strict=True)]
    shown = shown_examples(told(*records)["told"], Told())
    assert [example.id for example in shown[: FIRST + 3]] == ["e0", "e1", "e2", "e9", "e15", "e7"]
    assert len(shown) == FIRST + DIFFERENT
    assert [answer.score for answer in shown[3].answers] == [1.0, 0.0]


def test_fields_that_modes_share_are_said_once():
    scores = told(
        record("dense", "a", 1.0, "x", key="17", guess="17"), record("ratio 2", "a", 0.0, "y", key="17", guess="3")
    )
    [example] = shown_examples(scores["told"], Told())
    assert example.about == {"key": "17"}
    assert [answer.more for answer in example.answers] == [{"guess": "17"}, {"guess": "3"}]


def test_long_texts_lose_their_middle():
    text = "a" * 1000 + "b" * 1000
    short = shortened(text)
    assert len(short) < LONGEST + 40 and short.startswith("aaa") and short.endswith("bbb") and "1,600 char" in short
    assert shortened("c" * LONGEST) == "c" * LONGEST


def test_facts_are_counted_from_the_records():
    records = [
        record(
            "adapt-9",
            str(i),
            1.0,
            tokens_in=10 + i,
            tokens_dropped=i % 2 * 5,
            ratio=ratio,
            template="chat",
            ended_by=end,
        )
        for i, (ratio, end) in enumerate([(8, "</s>"), (8, "length"), (2, "</s>"), (8, "</s>")])
    ]
    dense = record("dense", "0", 1.0, prompts="official")
    rows = fact_rows({"dense": [dense], "adapt-9": records})
    assert rows["adapt-9"] == {
        "examples": "4",
        "tokens each": "10 to 13",
        "cut": "10 tokens of 2 examples",
        "template": "chat",
        "prompts": "",
        "ratio used": "8 (3), 2 (1)",
        "ended by": "</s> (3), length (1)",
        "seconds": "2.0",
        "tokens/s": "23",
        "cache MiB": "1.00",
    }
    assert rows["dense"]["prompts"] == "official" and rows["dense"]["ratio used"] == ""
    assert "cut" not in fact_rows({"dense": [dense]})["dense"]
