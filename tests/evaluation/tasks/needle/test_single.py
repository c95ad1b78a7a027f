import random

import pytest

from beacon_lit.evaluation import Subject, choose_modes, make_prompt, parse_mode, run
from beacon_lit.evaluation.metrics import rouge_l
from beacon_lit.evaluation.tasks import Needle
from beacon_lit.evaluation.tasks.needle.facts import MOST_FACTS, draw_facts
from beacon_lit.evaluation.tasks.needle.grading import contains
from beacon_lit.evaluation.tasks.needle.haystack import TextFiles, read_haystack
from beacon_lit.evaluation.turn_markup import TurnMarkup
from tests.evaluation.finding import FindingLM, documents, tokenizer

TASK = Needle(lengths=(700, 900), depths=(0, 50, 100), samples=2, max_new_tokens=99)


def evaluate(task, modes, chat=False, bos=False, batch_size=3, **model):
    tokens = tokenizer(chat, bos)
    subject = Subject(FindingLM(tokens, **model), tokens, lambda: documents(tokens))
    results = run({"needle": task}, subject, [*map(parse_mode, modes)], batch_size=batch_size, progress=False)
    return results["needle"]


@pytest.mark.parametrize(("chat", "bos"), [(False, False), (False, True), (True, True)])
def test_a_model_that_sees_the_needle_tells_it_and_one_without_memory_does_not(chat, bos):
    scores = evaluate(TASK, ["dense", 2, "window-only"], chat, bos, window=128)
    assert [score.value for score in scores.values()] == [1, 1, 0]
    record = scores["dense"].predictions[0]
    assert record["answer"] in record["prediction"] and record["needle"] not in record["prediction"]
    assert 0.3 < record["rouge"] < 1 and record["template"] == ("chat" if chat else "plain")
    assert "judge" not in record and scores["dense"].details["length_700/depth_50"] == 1
    assert scores["window-only"].details["rouge"] < 0.1
    assert not any("river" in str(value) for value in record.values())  # no haystack in records


@pytest.mark.parametrize(("chat", "bos"), [(False, False), (False, True), (True, True)])
def test_prompts_are_exact_and_what_the_template_writes(chat, bos):
    tokens = tokenizer(chat, bos)
    subject = Subject(None, tokens, lambda: documents(tokens))
    for example in TASK.examples(subject):
        ids = example.content.ids
        assert len(ids) == example.about["length"]
        assert ids.count(tokens.bos_token_id) == bos and (ids[0] == tokens.bos_token_id) == bos
        text = tokens.decode(ids)
        assert text.count(example.about["needle"]) == 1 and text.count(example.about["question"]) == 1
        told = tokens.decode(ids[example.about["position"] :])
        assert told.startswith(f"\n\n{example.about['needle']}\n\n")
        if chat:
            content = text.removeprefix("<s>[user] ").removesuffix("</s>\n[assistant] ")
            again = make_prompt(tokens, content)
            assert tokens.decode(again.ids) == text and example.content.template == again.template
        said_before = f"\n\n{example.about['question']}\nAnswer:"
        assert text.endswith(said_before + ("</s>\n[assistant] " if chat else ""))


def test_the_needle_stands_at_its_depth_of_the_haystack_where_a_sentence_begins():
    tokens = tokenizer()
    task = Needle(lengths=(1500,), depths=(0, 10, 50, 90, 100))
    subject = Subject(None, tokens, lambda: documents(tokens))
    before = None
    for example in task.examples(subject):
        ids, about = example.content.ids, example.about
        text = tokens.decode(ids)
        head = text.partition(f"\n\n{about['needle']}")[0]
        assert head.endswith((".", "!", "?", "\n\n")) or about["depth"] in (0, 100)
        haystack = text.partition("\n\n")[2].rpartition("\n\nWhat")[0]
        start = len(tokens(text.partition("\n\n")[0] + "\n\n")["input_ids"])
        needle = len(tokens(f"\n\n{about['needle']}\n\n")["input_ids"])
        room = len(tokens(haystack)["input_ids"]) - needle
        moved = about["position"] - start - round(room * about["depth"] / 100)
        assert 0 <= moved <= 64 if about["depth"] < 100 else moved == 0
        assert before is None or about["position"] > before
        before = about["position"]


def test_samples_and_seeds_differ_and_repeat():
    tokens = tokenizer()

    def made(**settings):
        task = Needle(lengths=(700,), depths=(50,), **settings)
        return task.examples(Subject(None, tokens, lambda: documents(tokens)))

    state = random.getstate()
    three = made(samples=3)
    assert random.getstate() == state and three == made(samples=3)
    texts = [tokens.decode(example.content.ids) for example in three]
    assert all(f"Text {name} begins" in text for name, text in zip(("one", "two", "three"), texts, strict=True))
    assert len({example.about["needle"] for example in (*three, *made(samples=3, seed=1))}) == 6
    assert [example.id for example in three] == ["700/50/0", "700/50/1", "700/50/2"]


def test_a_needle_of_ones_own():
    own = dict(needle="The safe opens with seven turns.", question="How does it open?", answer="Seven  turns")
    task = Needle(lengths=(700,), depths=(0,), **own)
    record = {"prediction": "\n\nWith seven\tturns, I think.\nThe end.", "needle": own["needle"], **own}
    assert task.grade(record) == {"score": 1, "rouge": 1 / 6}
    assert task.grade({**record, "prediction": "With six.\nWith seven turns."})["score"] == 0  # the first line alone
    assert task.grade({**record, "prediction": ""}) == {"score": 0, "rouge": 0}
    tokens = tokenizer()
    (example,) = task.examples(Subject(None, tokens, lambda: documents(tokens)))
    assert "The safe opens with seven turns." in tokens.decode(example.content.ids)


@pytest.mark.parametrize(
    ("said", "reference", "recall"),
    [("a b c", "a x b c", 3 / 4), ("c b a", "a b c", 1 / 3), ("", "a", 0), ("a", "!", 0), ("A b, b", "a b", 1 / 2)],
)
def test_recall_is_the_words_of_the_reference_that_are_said_in_order(said, reference, recall):
    assert rouge_l(said, reference).recall == pytest.approx(recall)


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("Feed the Grey\n geese!", "grey geese", True),
        ("chessboard", "chess", False),
        ("12345", "234", False),
        ("答案是北京。", "北京", True),
        ("a (b) c", "(b)", True),
        ("", "a", False),
    ],
)
def test_an_answer_is_contained_as_whole_words(text, answer, found):
    assert contains(text, answer) is found


def test_drawn_facts_are_answered_by_their_own_statement_alone():
    facts = draw_facts(random.Random(0), MOST_FACTS)
    for fact in facts:
        assert [contains(other.statement, fact.answer) for other in facts].count(True) == 1
        assert contains(fact.statement, fact.answer) and fact.about in fact.question
        assert not contains(fact.question, fact.answer) and "[" not in fact.statement + fact.answer


def test_files_are_read_in_order_and_repeated(tmp_path):
    for name, text in (("b.txt", "Second."), ("a.txt", "First."), ("empty.txt", " \n"), ("other.md", "Never.")):
        (tmp_path / name).write_text(text)
    tokens = tokenizer()
    subject = Subject(None, tokens)
    for path in (str(tmp_path), "long-llm:", f"{tmp_path}/*.txt"):
        hay = read_haystack(TextFiles(path, str(tmp_path)), subject, 10**6, 1)
        assert tokens.decode(hay.cut(0, 200)).startswith("First.\n\nSecond.\n\nFirst.")
        assert tokens.decode(hay.cut(3, 200)).startswith("Second.\n\nFirst.")
    assert len(hay.cut(0, 12345)) == 12345
    one = read_haystack(TextFiles(str(tmp_path / "b.txt")), subject, 1, 5)
    assert tokens.decode(one.cut(4, 30)).startswith("Second.\n\nSecond.")
    assert len(read_haystack(TextFiles(str(tmp_path)), subject, 1, 1).texts) == 1  # no more than is needed


@pytest.mark.parametrize("layout", ["needle/PaulGrahamEssays", "PaulGrahamEssays"])
def test_essays_lie_where_the_published_data_have_them_or_without_their_folder(tmp_path, layout):
    (tmp_path / layout).mkdir(parents=True)
    (tmp_path / layout / "a.txt").write_text("An essay about rivers. " * 40)
    tokens = tokenizer()
    for path in {f"long-llm:{layout}", "long-llm:PaulGrahamEssays"}:
        task = Needle(lengths=(700,), depths=(0,), path=path, data_root=str(tmp_path))
        (example,) = task.examples(Subject(None, tokens))
        assert "An essay about rivers." in tokens.decode(example.content.ids)


def test_special_tokens_of_documents_stay_out_of_the_haystack():
    tokens = tokenizer(bos=True)
    ids = [tokens.bos_token_id, *tokens("Some text.", add_special_tokens=False)["input_ids"], tokens.eos_token_id]
    hay = read_haystack(None, Subject(None, tokens, lambda: [("a", ids)]), 100, 1)
    assert not {0, 1} & set(hay.cut(0, 200))


def test_a_haystack_without_text_or_files_is_named(tmp_path):
    with pytest.raises(ValueError, match="the held-out documents have no text; a needle needs a haystack"):
        read_haystack(None, Subject(None, tokenizer()), 10, 1)
    with pytest.raises(ValueError, match=r"path=.* must name a text file, or a folder with \*.txt in it"):
        Needle(lengths=(900,), path=str(tmp_path))
    with pytest.raises(ValueError, match="data_root=None must name a folder"):
        Needle(lengths=(900,), path="long-llm:PaulGrahamEssays")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 \(byte 0\)"):
        Needle(lengths=(900,), path=str(tmp_path)).examples(Subject(None, tokenizer()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lengths=()), "lengths="),
        (dict(lengths=(9, 9)), "lengths="),
        (dict(depths=()), "depths="),
        (dict(depths=(50, 101)), r"depths=\[50, 101\]"),
        (dict(samples=0), "samples=0 is not allowed; allowed: at least 1"),
        (dict(max_new_tokens=0), "max_new_tokens=0"),
        (dict(template="raw"), "template='raw' is not allowed"),
        (dict(metric="f1"), "metric='f1' is not allowed; allowed: accuracy, rouge, judge"),
        (dict(metric="judge"), "metric=judge is not allowed without judge.url"),
        (dict(needle="A b.", question="?"), "answer is missing; allowed: all of needle, question and answer, or none"),
        (dict(needle="A b.", question="?", answer="c"), "answer='c' is not allowed; allowed: words of the needle"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Needle(**{"lengths": (900,), **settings})


def test_a_length_without_room_is_an_error_that_says_what_would_do():
    tokens = tokenizer()
    subject = Subject(None, tokens, lambda: documents(tokens))
    own = dict(needle="A b.", question="What?", answer="b")
    with pytest.raises(ValueError, match=r"lengths=8 is not allowed; allowed: at least \d+ tokens") as error:
        Needle(lengths=(8,), depths=(0,), **own).examples(subject)
    least = int(str(error.value).split()[-2])
    assert len(Needle(lengths=(least,), depths=(0,), **own).examples(subject)[0].content.ids) == least
    with pytest.raises(ValueError, match="lengths"):
        Needle(lengths=(least - 1,), depths=(0,), **own).examples(subject)


def test_a_chat_needs_a_template():
    with pytest.raises(ValueError, match="has no chat template"):
        TurnMarkup.of(tokenizer(), "chat")
    assert TurnMarkup.of(tokenizer(chat=True), "plain").head == ""


def test_heat_maps_have_a_panel_per_mode():
    task = Needle(lengths=(700, 900), depths=(0, 50), max_new_tokens=99)
    tokens = tokenizer()
    subject = Subject(FindingLM(tokens, window=128), tokens, lambda: documents(tokens))
    results = run({"needle": task}, subject, choose_modes(subject.lm), progress=False)
    figures = task.figures({"": results["needle"]})
    assert set(figures) == {"accuracy_by_depth_and_length", "rouge_by_depth_and_length"}
    axes = figures["accuracy_by_depth_and_length"].axes[:4]
    assert [panel.get_title() for panel in axes] == ["dense", "window-only", "ratio 2", "ratio 4"]
    assert [[text.get_text() for text in panel.texts] for panel in axes[:2]] == [["1"] * 4, ["0"] * 4]
