"""lm-evaluation-harness with our model, offline: its own tasks on local files, against our own scores."""

import copy
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from jinja2 import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.evaluation import Generate, Perplexity, Prompt, Reader, ScoreText, Subject, execute, parse_mode, run
from beacon_lit.evaluation import harness as module
from beacon_lit.evaluation.harness import HarnessLM
from beacon_lit.evaluation.runner import evaluating
from beacon_lit.evaluation.tasks import Mmlu
from tests.configs import ROOT, small_backbone
from tests.warm import warm_python

MODES = ("dense", "window-only", 4)
WORDS = ["river", "hill", "lamp", "stone", "bread", "cloud", "wheel", "fox", "song"]


def words(seed: int, count: int) -> str:
    return " ".join(WORDS[(seed * 5 + i * (seed + 2)) % len(WORDS)] for i in range(count))


@pytest.fixture(autouse=True)
def no_facts_about_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what lm_eval adds to results in a second: the list of installed packages."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    backbone = small_backbone(folder / "backbone")
    beacons = BeaconConfig(window=32, ratios=(2, 4), overlap=4, placement="interleave")
    BeaconLM.from_pretrained(str(backbone), beacons, attn="sdpa").save_pretrained(folder / "beacons", beacon_only=True)
    return folder / "beacons"


@pytest.fixture(scope="module")
def subject(checkpoint: Path) -> Subject:
    lm = BeaconLM.from_pretrained(str(checkpoint), attn="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(lm.config._name_or_path)
    texts = [(str(i), tokenizer(words(i, 12 + 9 * i))["input_ids"]) for i in range(4)]
    return Subject(lm, tokenizer, lambda: texts)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local data and a YAML for each kind of task that the harness has."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = [
        {
            "query": f"What is {words(i, 3 + i)}?",
            "choices": [words(i + j, 2) for j in range(4)],
            "answer": i % 4,
            "subject": "virology",
        }
        for i in range(10)
    ]
    data = {
        "questions": questions,
        "texts": [{"text": words(i, 12 + 9 * i)} for i in range(4)],
        "prompts": [{"prompt": words(i, 4 + 6 * i), "answer": "x"} for i in range(5)],
    }
    for name, rows in data.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def task(name: str, file: str, **settings: object) -> None:
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / f"{file}.jsonl")}}}
        settings = {"task": name, **source, "test_split": "test", **settings}
        (folder / f"{name}.yaml").write_text(json.dumps(settings))  # JSON is YAML

    question = "{{query}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
    choice = {"output_type": "multiple_choice", "doc_to_choice": ["A", "B", "C", "D"], "doc_to_target": "answer"}
    head = "The following are multiple choice questions (with answers) about virology.\n\n"
    task("local_letters", "questions", doc_to_text=question, description=head, **choice)
    in_words = {**choice, "doc_to_choice": "choices"}
    task("local_words", "questions", doc_to_text="{{query}} Answer:", **in_words)
    metric = [{"metric": "bits_per_byte"}]
    task(
        "local_text",
        "texts",
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="text",
        metric_list=metric,
    )
    stops = {"until": ["\n\n", "q"], "max_gen_toks": 12, "do_sample": False}
    task(
        "local_answers",
        "prompts",
        output_type="generate_until",
        doc_to_text="prompt",
        doc_to_target="answer",
        generation_kwargs=stops,
        metric_list=[{"metric": "exact_match"}],
    )
    return folder


def evaluated(subject: Subject, tasks: Path, mode: object, name: str, batch_size: int = 3, **options: object) -> dict:
    model = HarnessLM(Reader(subject, parse_mode(mode)), batch_size)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(model, tasks=[name], task_manager=manager, bootstrap_iters=0, **options)


@pytest.mark.parametrize("mode", MODES)
def test_choices_score_as_our_own_task_does(subject: Subject, tasks: Path, mode: object) -> None:
    found = evaluated(subject, tasks, mode, "local_letters")
    task = Mmlu(str(tasks / "questions.jsonl"), template="plain")
    (ours,) = run({"mmlu": task}, subject, [parse_mode(mode)], batch_size=3, progress=False)["mmlu"].values()
    assert found["results"]["local_letters"]["acc,none"] == ours.value
    samples = {sample["doc_id"]: sample for sample in found["samples"]["local_letters"]}
    assert len(samples) == 10
    for number, record in enumerate(ours.predictions):
        log_p = [answer[0][0] for answer in samples[number]["resps"]]
        assert log_p == pytest.approx([-nll for nll in record["nll"].values()], rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_choices_of_many_tokens_do_not_depend_on_the_batch(subject: Subject, tasks: Path, mode: object) -> None:
    def log_p(size: int) -> list[float]:
        samples = evaluated(subject, tasks, mode, "local_words", size)["samples"]["local_words"]
        return [answer[0][0] for sample in samples for answer in sample["resps"]]

    assert log_p(1) == pytest.approx(log_p(7), rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_rolling_likelihood_is_our_perplexity(subject: Subject, tasks: Path, mode: object) -> None:
    """The tokenizer has a bos but does not set it: ours is asked for with it, so that both score every token."""
    found = evaluated(subject, tasks, mode, "local_text")
    bos = subject.tokenizer.bos_token_id
    texts = [(name, [bos, *ids]) for name, ids in subject.documents]
    task, given = Perplexity(length=1024, rest=True), Subject(subject.lm, subject.tokenizer, lambda: texts)
    (ours,) = run({"perplexity": task}, given, [parse_mode(mode)], progress=False)["perplexity"].values()
    tokens = sum(len(ids) for _, ids in subject.documents)  # of one byte each
    assert exp(found["results"]["local_text"]["bits_per_byte,none"] * torch.tensor(2.0).log().item()) == pytest.approx(
        ours.value, rel=1e-4
    )
    assert sum(sum(record["tokens_by_window"]) for record in ours.predictions) == tokens


@pytest.mark.parametrize("mode", MODES)
def test_answers_are_those_of_the_reader(subject: Subject, tasks: Path, mode: object) -> None:
    samples = evaluated(subject, tasks, mode, "local_answers")["samples"]["local_answers"]
    assert len(samples) == 5
    for sample in samples:
        ids = subject.tokenizer(sample["doc"]["prompt"])["input_ids"]
        with evaluating(subject.lm):
            (alone,) = execute(Reader(subject, parse_mode(mode)), [Generate(Prompt(ids, "chat"), 12, ["\n\n", "q"])])
        assert sample["resps"][0][0] == alone["prediction"]
        assert alone["tokens_out"] > 0


def test_an_answer_ends_before_the_strings_that_it_is_generated_until(subject: Subject) -> None:
    model = HarnessLM(Reader(subject, parse_mode(4)))
    (said,) = model.generate_until(requests("generate_until", ("a river", {"max_gen_toks": 20})), disable_tqdm=True)
    place, stop = next((i, letter) for i, letter in enumerate(said) if i and letter.isascii())
    settings = {"max_gen_toks": 20, "until": [stop, "never said"]}
    (cut,) = model.generate_until(requests("generate_until", ("a river", settings)), disable_tqdm=True)
    assert cut == said[: said.index(stop)] and len(cut) < len(said) and said[place] == stop


@pytest.mark.parametrize("name", ["local_letters", "local_words", "local_text", "local_answers"])
def test_dense_is_what_the_harness_finds_for_the_backbone(subject: Subject, tasks: Path, name: str) -> None:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    backbone = {"pretrained": subject.lm.config._name_or_path, "dtype": "float32"}
    wanted = lm_eval.simple_evaluate(
        "hf", backbone, tasks=[name], task_manager=manager, bootstrap_iters=0, batch_size=3, device="cpu"
    )
    found = evaluated(subject, tasks, "dense", name)
    for ours, theirs in zip(found["samples"][name], wanted["samples"][name], strict=True):
        for one, other in zip(ours["resps"], theirs["resps"], strict=True):
            assert one[0] == (other[0] if name == "local_answers" else pytest.approx(other[0], rel=1e-4))
    scores = [{key: value for key, value in run["results"][name].items() if "," in key} for run in (found, wanted)]
    numbers = [{key: value for key, value in score.items() if isinstance(value, float)} for score in scores]
    assert numbers[0] and numbers[0] == pytest.approx(numbers[1], rel=1e-4)


def test_a_chat_template_is_applied(subject: Subject, tasks: Path) -> None:
    first = evaluated(subject, tasks, 4, "local_answers", apply_chat_template=True)["samples"]["local_answers"][0]
    asked = f"<|im_start|>user\n{first['doc']['prompt']}<|im_end|>\n<|im_start|>assistant\n"
    assert first["arguments"][0][0] == asked


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


def test_greedy_tells_what_would_be_generated(subject: Subject) -> None:
    model = HarnessLM(Reader(subject, parse_mode(2)))
    (said,) = model.generate_until(requests("generate_until", ("a river", {"max_gen_toks": 1})), disable_tqdm=True)
    other = "b" if said != "b" else "c"
    given = requests("loglikelihood", ("a river", said), ("a river", other), ("", "fox"))
    (right, is_greedy), (wrong, is_not), (empty, _) = model.loglikelihood(given, disable_tqdm=True)
    assert said and is_greedy and not is_not and wrong < right < 0 and empty < 0


def test_long_texts_are_cut_as_the_harness_does_it(subject: Subject) -> None:
    text = words(3, 60)
    ids = subject.tokenizer(text)["input_ids"]
    model = HarnessLM(Reader(subject, parse_mode("dense")), 4, max_length=50)
    (total,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)), disable_tqdm=True)
    pieces = [[subject.tokenizer.bos_token_id, *ids[:50]], *(ids[i - 1 : i + 50] for i in range(50, len(ids), 50))]
    last = len(ids) - 50 * (len(pieces) - 1)  # the last piece is as long as the others: it reads more and scores fewer
    pieces[-1] = ids[-51:]
    with torch.no_grad():
        answers = execute(Reader(subject, parse_mode("dense")), [ScoreText(piece) for piece in pieces])
    losses = [answer["losses"] for answer in answers]
    assert total == pytest.approx(-sum(loss.sum().item() for loss in losses[:-1]) - losses[-1][-last:].sum().item())
    short = HarnessLM(Reader(subject, parse_mode(4)), 1, max_length=20)
    given = requests("loglikelihood", (text, " fox"), (text[-17:], " fox"))
    cut, whole = short.loglikelihood(given, disable_tqdm=True)
    assert cut == whole


@pytest.fixture(scope="module")
def theirs(subject: Subject) -> Callable[..., HFLM]:
    """Make the harness's own model of the backbone, with a tokenizer."""

    def make(tokenizer: object, **options: object) -> HFLM:
        backbone = AutoModelForCausalLM.from_pretrained(subject.lm.config._name_or_path, dtype=torch.float32)
        return HFLM(backbone, tokenizer=tokenizer, backend="causal", device="cpu", batch_size=1, **options)

    return make


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("most", [50, 64, 2048])
def test_rolling_likelihood_of_a_long_text_is_the_harness_s_own(
    subject: Subject, theirs: Callable[..., HFLM], adds_bos: bool, most: int
) -> None:
    tokenizer = with_special(subject, "<|im_start|> $A" if adds_bos else "$A")
    given = requests("loglikelihood_rolling", (words(3, 90),), (words(2, 9),), (words(4, 420)[:2100],), ("",))
    wanted = theirs(tokenizer, max_length=most).loglikelihood_rolling(given, disable_tqdm=True)
    dense = HarnessLM(Reader(replace(subject, tokenizer=tokenizer), parse_mode("dense")), 2, max_length=most)
    assert dense.loglikelihood_rolling(given, disable_tqdm=True) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("mode", ["window-only", 2, 4])
def test_a_rolling_text_fits_the_longest_that_a_mode_reads(subject: Subject, mode: object) -> None:
    model = HarnessLM(Reader(subject, parse_mode(mode)))
    length = min(model.max_length, 5000)
    (total,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", ("a" * (length + 40),)), disable_tqdm=True)
    assert total < 0


def with_special(subject: Subject, around: str) -> Any:
    """A copy of the tokenizer that puts special tokens around a text ($A)."""
    tokenizer = copy.deepcopy(subject.tokenizer)
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|im_start|>", "<|im_end|>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(around, special_tokens=special)
    return tokenizer


def test_a_tokenizer_that_appends_eos_changes_nothing(subject: Subject) -> None:
    plain = HarnessLM(Reader(subject, parse_mode(4)))
    appending = replace(subject, tokenizer=with_special(subject, "$A <|im_end|>"))
    model = HarnessLM(Reader(appending, parse_mode(4)))
    assert model.tok_encode("a river") == plain.tok_encode("a river")
    scored, said = (
        requests("loglikelihood", ("a river", " fox")),
        requests("generate_until", ("a", {"max_gen_toks": 9})),
    )
    assert model.loglikelihood(scored, disable_tqdm=True) == plain.loglikelihood(scored, disable_tqdm=True)
    assert model.generate_until(said, disable_tqdm=True) == plain.generate_until(said, disable_tqdm=True)


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 1.9}, {"no_repeat_ngram_size": 1}, {"repetition_penalty": 1.0, "top_p": 0.5}]
)
def test_penalties_are_used_as_the_harness_does_it(
    subject: Subject, theirs: Callable[..., HFLM], penalty: dict[str, float]
) -> None:
    settings = {"max_gen_toks": 24, "do_sample": False, "until": []}
    given = requests("generate_until", ("a river a river", {**settings, **penalty}))
    dense = HarnessLM(Reader(subject, parse_mode("dense")))
    said = dense.generate_until(given, disable_tqdm=True)
    assert said == theirs(subject.tokenizer).generate_until(given, disable_tqdm=True)
    plain = dense.generate_until(requests("generate_until", ("a river a river", settings)), disable_tqdm=True)
    assert (said == plain) == ("top_p" in penalty)
    compressed = HarnessLM(Reader(subject, parse_mode(4)))
    both = [requests("generate_until", ("a river " * 9, {**settings, **more})) for more in (penalty, {})]
    one, other = (compressed.generate_until(asked, disable_tqdm=True) for asked in both)
    assert (one == other) == ("top_p" in penalty)


def test_a_system_message_that_the_template_refuses_is_dropped_with_a_warning(
    subject: Subject, theirs: Callable[..., HFLM], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = copy.deepcopy(subject.tokenizer)
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    model = HarnessLM(Reader(replace(subject, tokenizer=tokenizer), parse_mode(4)))
    history = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    written = model.apply_chat_template(history)
    assert written == theirs(tokenizer).apply_chat_template(history)
    assert "Be brief." not in written and "refuses" in caplog.text and "no system role" in caplog.text
    with pytest.raises(TemplateError, match="no system role"):
        tokenizer.chat_template = "{{ raise_exception('no system role') }}"
        model.apply_chat_template(history)


def test_the_harness_s_default_device_is_the_cpu_where_there_is_no_gpu(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = HarnessLM.create_from_arg_string(f"checkpoint={checkpoint},ratio=4", {"device": "cuda:0"})
    assert model.device == torch.device("cpu")


def test_what_the_model_cannot_do_is_an_error(subject: Subject) -> None:
    reader = Reader(subject, parse_mode("dense"))
    with pytest.raises(ValueError, match="max_length=5000 is not allowed; allowed: 2 to 2048, what dense can read"):
        HarnessLM(reader, max_length=5000)
    with pytest.raises(ValueError, match="batch_size=0 is not allowed"):
        HarnessLM(reader, 0)
    sampled = requests("generate_until", ("a", {"do_sample": True, "temperature": 0.7}))
    with pytest.raises(ValueError, match="allowed: greedy answers"):
        HarnessLM(reader).generate_until(sampled)
    unknown = requests("generate_until", ("a", {"min_p": 0.1, "renormalize_logits": True, "until": ["x"]}))
    with pytest.raises(
        ValueError, match=r"generation_kwargs: renormalize_logits=True is not allowed; allowed: .*repet"
    ):
        HarnessLM(reader).generate_until(unknown)
    with pytest.raises(ValueError, match="max_gen_toks=2048 leaves no room"):
        HarnessLM(reader).generate_until(requests("generate_until", ("a", {"max_gen_toks": 2048})))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("ratio=4", "checkpoint or ratio missing; needed: checkpoint=, ratio="),
        ("checkpoint=x,ratio=4,window=7", "model_args: window; needed"),
    ],
)
def test_bad_arguments_are_named(arguments: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HarnessLM.create_from_arg_string(arguments)
    with pytest.raises(ValueError, match="batch_size=auto is not allowed; allowed: a number"):
        HarnessLM.create_from_arg_string("checkpoint=x,ratio=4", {"batch_size": "auto"})


def test_a_harness_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, module.__name__)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ValueError, match=r"pip install 'beacon_lit\[harness\]'"):
        importlib.import_module(module.__name__)


# What the console script does, without the thousands of tasks that lm_eval would look through for one.
SCRIPT = """
from functools import partial
import lm_eval.tasks
lm_eval.tasks.TaskManager = partial(lm_eval.tasks.TaskManager, include_defaults=False)
from beacon_lit.cli.harness import main
main()
"""


def test_the_command_line(checkpoint: Path, subject: Subject, tasks: Path, tmp_path: Path) -> None:
    """The command is lm_eval's own. A task finds the package `evaluate`, though the current folder has evaluate.py."""
    (tmp_path / "helper.py").write_text("from evaluate import load\n\ndef same(docs):\n    return docs\n")
    task = json.loads((tasks / "local_letters.yaml").read_text()) | {"process_docs": "FUNCTION"}
    (tmp_path / "letters.yaml").write_text(json.dumps(task).replace('"FUNCTION"', "!function helper.same"))
    arguments = ["--model_args", f"checkpoint={checkpoint},ratio=4,attn=sdpa", "--tasks", "local_letters"]
    arguments += ["--include_path", str(tmp_path), "--batch_size", "4", "--device", "cpu"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "beacon-harness").write_text(SCRIPT)
    command = [warm_python(), tmp_path / "bin" / "beacon-harness", *arguments, "--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    (found,) = json.loads(file.read_text())["results"].values()
    (wanted,) = evaluated(subject, tasks, 4, "local_letters")["results"].values()
    assert found["acc,none"] == wanted["acc,none"] and "acc" in done.stdout
