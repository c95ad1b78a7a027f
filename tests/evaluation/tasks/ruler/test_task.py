"""Every subset is solved here from its text alone, by a rule that knows nothing of how it was made."""

import json
import re
from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation import Subject, parse_mode, run
from beacon_lit.evaluation.tasks import Ruler
from beacon_lit.evaluation.tasks.ruler.fitting import largest
from beacon_lit.evaluation.tasks.ruler.subsets import SUBSETS, Material
from beacon_lit.evaluation.tasks.ruler.words import SINGLE, at_depths, between_lines, hide
from tests.configs import composed, small_backbone, small_model, small_text
from tests.evaluation.fakes import AnsweringLM, FakeLM, byte_tokenizer

NIAH = [name for name in SUBSETS if name.startswith("niah")]
CHAT = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>ai\n"
    "{% endif %}"
)


def subject(**model):
    return Subject(FakeLM(**model), byte_tokenizer())


def made(name, seed=0, size=200, length=4096, **settings):
    of = dict(essays="made-up", squad=None, hotpotqa=None, subject=subject(), data_root=None, seed=seed) | settings
    return SUBSETS[name](length, Material.read(**of)).make(Random(f"{name}/{seed}"), size)


def needles(text):
    """Values by key."""
    found = {}
    for key, value in re.findall(r"One of the secret \w+ of (\S+) is: (\S+)\.(?=\s|$)", text):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NIAH)
def test_needles_are_told_and_asked_for(name, seed):
    item = made(name, seed)
    document, question = item.text.rpartition("\n")[::2]
    told = needles(document)
    asked = [key for key in told if re.search(rf"[ ,]{key}\b", question)]
    assert all(key in item.stem for key in asked)
    assert sorted(value for key in asked for value in told[key]) == sorted(item.answers)
    keys, values = {"niah_multikey_1": (4, 4), "niah_multivalue": (1, 4), "niah_multiquery": (4, 4)}.get(name, (1, 1))
    others = 200 if name in ("niah_multikey_2", "niah_multikey_3") else 0
    assert len(told) == keys + others and sum(map(len, told.values())) == values + others
    assert len(item.answers) == (4 if name in ("niah_multivalue", "niah_multiquery") else 1)
    kind = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    assert all(re.fullmatch(kind if name[-1] == "3" else r"\d{7}", answer) for answer in item.answers)
    assert all(bool(re.fullmatch(kind, key)) == (name == "niah_multikey_3") for key in told)


def test_haystacks_are_noise_essays_or_needles():
    noise = made("niah_single_1").text.splitlines()
    assert Counter(line.startswith("The river is wide. The hills are low.") for line in noise) == {True: 200, False: 3}
    assert [line for line in noise if "secret numbers of" in line] == [line for line in noise if needles(line)]
    sentences = re.split(r"(?<=\.) ", made("niah_single_2").text)
    assert len(sentences) > 200 and len(set(sentences)) == len(sentences)
    assert len(made("niah_multikey_2").text.splitlines()) == 203


@pytest.mark.parametrize("seed", range(3))
def test_variables_are_those_that_the_chain_reaches(seed):
    item = made("vt", seed)
    example, asked = item.text.split("\n\nIn the text below")
    for text, answers in ((example, example.split()[-5:]), (asked, item.answers)):
        value = re.search(r"have the value (\d{5})", text)[1]
        reached = []
        for name, source in re.findall(r"^VAR (\w+) = (?:VAR )?(\w+)$", text, re.MULTILINE):
            assert source == value or source in reached  # told in order
            reached.append(name)
        assert reached == list(answers) and len(set(reached)) == 5
    assert all(len(name) == 5 for name in item.answers) and set(item.answers).isdisjoint(example.split())


@pytest.mark.parametrize(("length", "often", "seldom"), [(4096, 30, 3), (16384, 30, 3), (2048, 6, 1)])
def test_common_words_come_most_often(length, often, seldom):
    item = made("cwe", length=length, size=100)
    example, asked = item.text.split("\nHere is a numbered list")
    counts = Counter(re.findall(r"\d+\. ([a-z-]+)", asked))
    assert sorted(item.answers) == sorted(word for word, count in counts.items() if count == often)
    assert len(item.answers) == 10 and Counter(counts.values()) == {often: 10, seldom: 100}
    listed, solved = example.split("Answer:")
    in_example = Counter(re.findall(r"\d+\. ([a-z-]+)", listed))
    assert set(re.findall(r"\d+\. (\w+)", solved)) == {word for word, _ in in_example.most_common(10)}


@pytest.mark.parametrize("length", [4096, 16384])
def test_lists_of_more_words_than_there_are_have_made_up_words(length):
    few, many = (made("cwe", length=length, size=size) for size in (len(SINGLE) - 10, len(SINGLE) - 9))
    assert set(few.answers) < {*SINGLE}
    counts = Counter(re.findall(r"\d+\. (\S+)", many.text.rpartition("numbered list")[2]))
    assert len(counts) == len(SINGLE) + 1 and all(re.fullmatch("[a-z]{6}", word) for word in counts)


@given(st.integers(5, 40), st.integers(1, 5), st.integers(0, 99))
def test_lines_stand_before_different_lines_and_sentences_at_different_depths(lines, count, seed):
    text = [*map(str, range(lines))]
    told, places = ["a", "b", "c", "d", "e"][:count], between_lines(Random(seed), lines, count)
    hide(told, text, places)
    assert [line for line in text if line.isalpha()] == told and text[-1] == str(lines - 1)
    assert all(after.isdigit() for line, after in pairwise(text) if line.isalpha()) and len({*places}) == count
    assert len({*at_depths(Random(seed), 101, count)}) == count and {*at_depths(Random(seed), 101, 40)} >= {0, 101}


def test_a_common_word_is_in_no_other_word():
    assert not [(one, other) for one in SINGLE for other in SINGLE if one != other and one in other]
    assert len(set(SINGLE)) == len(SINGLE)


@pytest.mark.parametrize("size", [100, 1000])
def test_frequent_words_come_most_often_but_for_the_dots(size):
    item = made("fwe", size=size)
    counts = Counter(item.text.split("\n")[0].partition("come most often. ")[2].split())
    most = [word for word, _ in counts.most_common(4)]
    assert most == ["...", *item.answers] and all(re.fullmatch("[a-z]{6}", word) for word in item.answers)
    assert counts[most[3]] > counts.most_common(5)[4][1]
    assert counts["..."] == pytest.approx(size * 0.6079, abs=1) and counts[most[1]] == pytest.approx(
        size * 0.152, abs=1
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["qa_1", "qa_2"])
def test_made_up_questions_are_answered_by_the_documents_about_those_they_name(name, seed):
    item = made(name, seed, size=20)
    documents = re.findall(r"Document \d+:\n(.+?)\n(.+)", item.text)
    assert len(documents) == 21 + (name == "qa_2")
    lives = dict(documents)
    question = item.text.rpartition("Question: ")[2]
    (named,) = [who for who in lives if who in question]
    assert ("best friend of" in question) == (name == "qa_2")
    if name == "qa_2":
        told = lives[named]
        (named,) = [who for who in lives if who != named and who in told]
    assert item.answers[0] in lives[named] and item.answers[0] not in question


SQUAD = {
    "data": [
        {"paragraphs": [
            {"context": "Rome is old.", "qas": [
                {"question": "How is Rome?", "answers": [{"text": "old"}, {"text": "Old"}]},
                {"question": "Where?", "answers": [], "is_impossible": True},
            ]},
            {"context": "Rome is large.", "qas": []},
        ]},
        {"paragraphs": [{"context": "Oslo is cold.", "qas": [
            {"question": "How is Oslo?", "answers": [{"text": "cold"}], "is_impossible": False},
        ]}]},
    ]
}  # fmt: skip
HOTPOTQA = [
    {"question": f"q{i}", "answer": f"a{i}", "context": [[f"T{i}", ["One. ", "Two."]], ["Same", ["Three."]]]}
    for i in range(3)
]


def test_files_of_squad(tmp_path):
    (tmp_path / "squad.json").write_text(json.dumps(SQUAD))
    for seed in range(8):
        item = made("qa_1", seed, size=1, squad=str(tmp_path / "squad.json"))
        if "How is Rome?" in item.text:
            assert item.answers == ["old", "Old"] and item.text.count("Document") == 2
            assert "Rome is large." in item.text and "Oslo" not in item.text  # of its article first
        else:
            assert item.answers == ["cold"] and "Oslo is cold." in item.text and "Where?" not in item.text
    assert made("qa_1", size=99, squad=str(tmp_path / "squad.json")).text.count("Document") == 3


def test_files_of_hotpotqa(tmp_path):
    (tmp_path / "hotpotqa.json").write_text(json.dumps(HOTPOTQA))
    item = made("qa_2", size=1, hotpotqa=str(tmp_path / "hotpotqa.json"))
    number = item.answers[0][1]
    assert item.text.endswith(f"Question: q{number}")
    assert f"T{number}\nOne. Two." in item.text and "Same\nThree." in item.text and item.text.count("Document") == 3


@pytest.mark.parametrize(
    ("content", "message"), [("[]", "is not a file of SQuAD"), ("{", "cannot be read"), (None, "no")]
)
def test_files_that_are_no_questions_are_named(tmp_path, content, message):
    path = tmp_path / "squad.json"
    if content:
        path.write_text(content)
    with pytest.raises(ValueError, match=rf"{path}.*{message}"):
        made("qa_1", squad=str(path))
    path.write_text('{"data": []}')
    with pytest.raises(ValueError, match="has no question"):
        made("qa_1", squad=str(path))


def test_essays_are_documents_or_files(tmp_path):
    tokenizer = byte_tokenizer()
    told = tokenizer("Birds sing.  Fish\nswim! Do cats? " + "x" * 900)["input_ids"]
    documents = Subject(FakeLM(), tokenizer, lambda: [("a", told)])
    text = made("niah_single_2", essays="documents", subject=documents, size=12).text
    assert text.count("Birds sing.") == 2 and "Fish swim!" in text and "x" * 400 + " " in text
    (tmp_path / "a.txt").write_text("Only this. And that.")
    (tmp_path / "b.jsonl").write_text('{"text": "And more."}\n')
    for path in (tmp_path, tmp_path / "*.*"):
        text = made("niah_single_2", essays=str(path), size=3).text
        assert all(sentence in text for sentence in ("Only this.", "And that.", "And more."))
    (tmp_path / "needle" / "Essays").mkdir(parents=True)
    (tmp_path / "needle" / "Essays" / "a.txt").write_text("Of rivers.")
    for path in ("long-llm:needle/Essays", "long-llm:Essays", "long-llm:needle/Essays/*.txt"):
        assert "Of rivers." in made("niah_single_2", essays=path, data_root=str(tmp_path), size=3).text
    (tmp_path / "b.jsonl").write_text("nothing\n")
    with pytest.raises(ValueError, match=r"b\.jsonl"):
        made("niah_single_2", essays=str(tmp_path))
    with pytest.raises(ValueError, match=r"essays='/nowhere'.*made-up, documents"):
        made("niah_single_2", essays="/nowhere")
    with pytest.raises(ValueError, match="essays='documents' has no text"):
        made("niah_single_2", essays="documents")


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=300), st.integers(0, 5000), st.integers(0, 50), st.integers(0, 3)
)
def test_the_largest_size_that_fits_is_found(units, room, base, least):
    def count(size):
        return base + sum(units[i % len(units)] for i in range(size))

    if count(least) > room:
        with pytest.raises(ValueError, match=f"at least {count(least)} tokens"):
            largest(count, least, room)
        return
    size = largest(count, least, room)
    assert count(size) <= room < count(size + 1)


@pytest.mark.parametrize("chat", [False, True])
def test_prompts_fill_the_length(chat):
    asked = subject()
    asked.tokenizer.chat_template = CHAT if chat else None
    for example in Ruler(lengths=[6000], samples=2).examples(asked):
        sample = example.content
        prompt = sample.prompt(asked.tokenizer, "auto")
        unit = 700 if "qa" in example.id else 300 if example.id.startswith("niah_multikey_3") else 110
        assert 6000 - unit < len(prompt.ids) + sample.subset.new_tokens <= 6000, example.id
        text = asked.tokenizer.decode(prompt.ids)
        item = sample.subset.make(Random(sample.seed), sample.size)
        assert prompt.template == ("chat" if chat else "plain")
        assert text.endswith(f"</s>\n<s>ai\n{item.stem}" if chat else f"{item.text} {item.stem}")
        assert example.about["answers"] == list(item.answers)


def test_samples_are_made_from_the_seed():
    def texts(**settings):
        made = Ruler(lengths=[6000], samples=2, subsets=("vt", "qa_2"), **settings).examples(subject())
        return [example.content.prompt(byte_tokenizer(), "plain").ids for example in made]

    first = texts()
    assert first == texts() and len({tuple(ids) for ids in first}) == 4
    assert not {tuple(ids) for ids in texts(seed=1)} & {tuple(ids) for ids in first}


class Finder(AnsweringLM):
    """Answers with the values of the needles that it sees, of keys that it sees behind them."""

    tokenizer = byte_tokenizer()

    def said(self, text):
        question = text.rpartition("\nWhich")[2]
        answers = [value for key, values in needles(text).items() if f" {key}" in question for value in values]
        return " " + ", ".join(answers)


def test_a_model_that_finds_needles_is_right_unless_they_are_gone():
    task = Ruler(lengths=[2000, 2500], samples=2, subsets=[*NIAH, "fwe"])
    modes = [parse_mode(mode) for mode in ("dense", 2, "window-only")]
    asked = Subject(Finder(window=256), byte_tokenizer())
    first, again = (run({"ruler": task}, asked, modes, batch_size=3, progress=False)["ruler"] for _ in range(2))
    for mode in ("dense", "ratio 2"):
        assert all(value == (cell[:3] != "fwe") for cell, value in first[mode].details.items() if "/" in cell)
        assert first[mode].value == pytest.approx(8 / 9)
    assert first["window-only"].value < 0.2
    records = first["dense"].predictions
    assert [r["prediction"] for r in records] == [r["prediction"] for r in again["dense"].predictions]
    assert {record["ended_by"] for record in records} == {"</s>"}
    assert all(
        record["tokens_in"] + (50 if record["subset"] == "fwe" else 128) <= record["length"] for record in records
    )
    assert set(task.figures({"": first})) == {"by_ratio", "by_subset"}


@pytest.mark.parametrize(
    ("said", "any_answer", "score"),
    [("it is ABC and def", False, 1), ("abc", False, 0.5), ("abc", True, 1), ("ab c", True, 0), ("", False, 0)],
)
def test_answers_count_where_they_are_said(said, any_answer, score):
    record = {"prediction": said, "answers": ["Abc", "DEF"], "any_answer": any_answer}
    assert Ruler(lengths=[1]).grade(record) == {"score": score}


def test_the_value_is_the_mean_over_subsets_and_lengths():
    cells = {("vt", 10): [1, 0], ("vt", 20): [1], ("cwe", 10): [0.5], ("cwe", 20): [0]}
    records = [{"subset": s, "length": n, "score": x} for (s, n), scores in cells.items() for x in scores]
    score = Ruler(lengths=[10, 20]).score(records)
    assert score.value == 0.5
    assert score.details == {
        "length_10": 0.5, "length_20": 0.5,
        "vt/length_10": 0.5, "cwe/length_10": 0.5, "vt/length_20": 1, "cwe/length_20": 0,
    }  # fmt: skip
    assert Ruler(lengths=[10]).score(records[:2]).details == {"vt/length_10": 0.5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lengths=[]), "lengths="),
        (dict(lengths=[9], subsets=["vt", "vt"]), "subsets="),
        (dict(lengths=[9], subsets=["qa_3"]), r"subsets=\['qa_3'\] is not allowed; allowed: niah_single_1, "),
        (dict(lengths=[9], samples=0), "samples=0"),
        (dict(lengths=[9], template="none"), "template='none'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Ruler(**settings)


def test_a_length_too_short_is_named():
    with pytest.raises(ValueError, match=r"lengths=100 is not allowed for vt; allowed: at least \d+ tokens"):
        Ruler(lengths=[100], subsets=["vt"]).examples(subject())


def test_the_config_evaluates(tmp_path):
    backbone, text = small_backbone(tmp_path / "backbone"), small_text(tmp_path / "text.jsonl")
    overrides = [*small_model(backbone), "ratio=4", "task=[ruler]", "batch_size=2"]
    overrides += ["data=text", f"data.validation=[{text}]", f"data.cache={tmp_path}/tokens", "data.max_length=160"]
    overrides += ["task.ruler.lengths=[1200]", "task.ruler.samples=2", "task.ruler.essays=documents"]
    overrides += ["task.ruler.subsets=[niah_single_2,fwe]"]
    cfg = composed("evaluate", *overrides, f"run_folder={tmp_path}/out")
    assert composed("evaluate", "task=[ruler]").task.ruler.lengths == [4096]
    assert instantiate(cfg.task.ruler).chosen == ["niah_single_2", "fwe"]
    metrics = evaluate(cfg)
    modes = ("dense", "window-only", "ratio_4")
    assert {f"ruler/{mode}/niah_single_2/length_1200" for mode in modes} <= metrics.keys()
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and {line["source"] for line in lines} == {"documents", "made-up"}
    rescored = [*overrides, f"rescore={tmp_path}/out", f"run_folder={tmp_path}/out"]
    assert evaluate(composed("evaluate", *rescored)) == metrics
