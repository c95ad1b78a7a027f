"""prepare.py from its config to a corpus that can be read."""

import json
import subprocess

import datasets
import pytest
from transformers import AutoTokenizer

import beacon_lit.cli.prepare as command
from tests.configs import ROOT, composed, small_backbone, small_text
from tests.warm import warm_python


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return small_backbone(tmp_path_factory.mktemp("backbone"))


def settings(backbone, folder, *more: str) -> list[str]:
    return [f"tokenizer={backbone}", f"output={folder}", "corpus.shard_tokens=1000", *more]


def sources(*texts) -> str:
    return f"corpus.sources={{{', '.join(f'{text.stem}: {text}' for text in texts)}}}"


def test_it_writes_a_corpus_and_a_report(backbone, tmp_path, capsys):
    texts = small_text(tmp_path / "first.jsonl", 8), small_text(tmp_path / "second.jsonl", 30)
    chosen = [sources(*texts), "corpus.mixture={first: 25, second: 75}", "corpus.amounts='64:4K 200:6K'"]
    manifest = command.prepare(composed("prepare", *settings(backbone, tmp_path / "out", *chosen)))

    assert manifest["sources"]["first"]["pieces"] == {"64": 16, "200": 8}  # a quarter of 63 and of 30; 7.5 goes up
    assert manifest["sources"]["second"]["pieces"] == {"64": 47, "200": 22}
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    folders = sorted((tmp_path / "out" / "shards").iterdir())
    assert [folder.name for folder in folders] == [shard["name"] for shard in manifest["shards"]]
    pieces = [row["input_ids"] for folder in folders for row in datasets.load_from_disk(folder)]
    first = json.loads(texts[0].read_text().splitlines()[0])["text"]
    start = tokenizer.decode([token for piece in pieces[:16] for token in piece])
    assert start.startswith(first + tokenizer.eos_token)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    assert (tmp_path / "out" / "lengths.png").read_bytes()[:4] == b"\x89PNG"
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| first | 2,624 |" in text and "| all | 10,032 | 100 % |" in text and "lengths.png" in text
    assert "second" in capsys.readouterr().out


def test_synthetic_text_is_a_source_by_its_target(backbone, tmp_path):
    target = "{_target_: beacon_lit.data.sources.synthetic.SyntheticSource, kind: needle, count: 20, train_on: all}"
    made = target.replace("count", "lengths: [600, 700], count")
    cfg = composed(
        "prepare", *settings(backbone, tmp_path, f"corpus.sources={{made: {made}}}", "corpus.amounts=512:5K")
    )
    manifest = command.prepare(cfg)
    assert manifest["sources"]["made"]["tokens"] == 10 * 512
    partly = composed("prepare", *settings(backbone, tmp_path / "2", "corpus.amounts=512:5K"))
    partly.corpus.sources = {"made": {**cfg.corpus.sources.made, "train_on": "answer"}}
    with pytest.raises(ValueError, match=r"needle in filler: document needle-0-0 must be text.* not to be trained on"):
        command.prepare(partly)


def test_the_report_tells_what_is_missing(backbone, tmp_path):
    text = small_text(tmp_path / "short.jsonl", 3)
    chosen = [sources(text), "corpus.amounts=512:5K"]
    with pytest.raises(ValueError, match=r"too little text: short lacks [\d,]+ tokens in pieces of 512"):
        command.prepare(composed("prepare", *settings(backbone, tmp_path / "out", *chosen)))
    manifest = command.prepare(
        composed("prepare", *settings(backbone, tmp_path / "out", *chosen, "corpus.shortage=warn"))
    )
    missing = manifest["sources"]["short"]["missing_tokens"]["512"]
    assert missing == 5120 - manifest["sources"]["short"]["tokens"] > 0
    assert f"short: missing {missing:,} tokens in pieces of 512" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("corpus.amounts=lots", "amounts='lots': 'lots' must be LENGTH:AMOUNT"),
        ("corpus.mixture={none: 100}", "mixture={'none': 100} must have a share for each of the sources text"),
        ("corpus.sources={text: /no/such.jsonl}", "must name an existing file"),
        ("corpus.tolerance.max_bad=-1", "max_bad=-1 must be an integer, at least 0"),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(tmp_path, change, message):
    text = small_text(tmp_path / "text.jsonl", 2)
    given = [sources(text), "corpus.amounts=64:1K", change]
    with pytest.raises(ValueError, match=message):
        command.prepare(composed("prepare", *settings("/no/such/tokenizer", tmp_path / "out", *given)))
    assert not (tmp_path / "out").exists()


def test_help_shows_the_commands():
    done = subprocess.run(
        [warm_python(), ROOT / "prepare.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "python prepare.py output=" in done.stdout
