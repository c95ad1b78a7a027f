"""evaluate.py: a run that was killed goes on where it was, and what it wrote is graded anew without the model."""

import json
import shutil
import subprocess
from dataclasses import dataclass

import pytest
from omegaconf import OmegaConf

from beacon_lit.cli.command import check_options
from beacon_lit.cli.earlier import check_earlier_run, of_earlier_run
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation.tasks import Passkey
from tests.configs import ROOT, composed, small_text
from tests.warm import warm_python


def records(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").open()]


def untimed(folder):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records(folder)]


def earlier(*overrides):
    """As the command line does it."""
    return evaluate(of_earlier_run(composed("evaluate", *overrides), overrides))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run's folder and its metrics."""
    folder = tmp_path_factory.mktemp("run")
    text = small_text(folder / "text.jsonl")
    settings = ["model=tiny", "beacon.window=32", "ratio=[4,adapt-64]", "data=text", f"data.validation=[{text}]"]
    settings += ["data.max_length=160", "task.perplexity.length=128", "task.perplexity.max_pieces=5", "batch_size=2"]
    settings += ["task.passkey.lengths=[300]", "task.passkey.depths=[0,50,100]", f"run_folder={folder}/out"]
    return folder / "out", evaluate(composed("evaluate", *settings))


@pytest.fixture
def copy(whole, tmp_path):
    """The folder, in another place."""
    return shutil.copytree(whole[0], tmp_path / "copy")


@pytest.mark.parametrize(("ranks", "lines"), [(1, 1), (2, 9), (3, 31)])
def test_a_killed_run_goes_on(whole, copy, ranks, lines):
    """Killed after so many records of however many ranks, one of them in the middle of a line."""
    text = (copy / "predictions.jsonl").read_text().splitlines(keepends=True)
    (copy / "predictions.jsonl").unlink()
    for rank in range(ranks):
        part = "".join(text[rank:lines:ranks]) + (text[lines][:40] if rank == lines % ranks else "")
        (copy / f"predictions.rank{rank}.jsonl").write_text(part)
    metrics = earlier(f"resume={copy}")
    assert metrics == whole[1] and untimed(copy) == untimed(whole[0])
    kept = sum(mine == old for mine, old in zip(records(copy), records(whole[0]), strict=True))
    assert lines - 1 <= kept <= lines + 1, "what was there is not asked again, but for a batch that was not whole"
    assert not list(copy.glob("predictions.rank*"))


def test_a_finished_run_has_nothing_left_to_ask(whole, copy):
    assert earlier(f"resume={copy}", "devices=1", "accelerator=cpu") == whole[1]
    assert records(copy) == records(whole[0])


def test_other_settings_and_folders_are_refused(copy, tmp_path):
    with pytest.raises(ValueError, match=r"ratio=8 batch_size=4 is not allowed with resume=.*; allowed: where it runs"):
        earlier(f"resume={copy}", "ratio=8", "devices=1", "batch_size=4")
    with pytest.raises(ValueError, match=r"ratio=8 is not allowed with rescore=.*; allowed: task.NAME.SETTING"):
        earlier(f"rescore={copy}", "ratio=8")
    with pytest.raises(ValueError, match="not allowed together"):
        earlier(f"rescore={copy}", f"resume={copy}")
    for name in ("resume", "rescore"):
        with pytest.raises(ValueError, match=f"{name}=.*: there is no config.yaml in it"):
            earlier(f"{name}={tmp_path}")
    (copy / "predictions.jsonl").rename(copy / "predictions.rank0.jsonl")
    with pytest.raises(ValueError, match=r"there is no predictions.jsonl; allowed: the folder of a finished"):
        earlier(f"rescore={copy}")


class Strict(Passkey):
    """A key must be all that is said."""

    def grade(self, record):
        return {**super().grade(record), "score": 0.5}


@dataclass(frozen=True)
class Stricter(Passkey):
    """With a setting of its own."""

    strictness: float = 0.5
    graded_by = ("strictness",)

    def grade(self, record):
        return {**super().grade(record), "score": self.strictness}


class Broken(Passkey):
    """Cannot grade."""

    def grade(self, record):
        return {"score": 1 / 0}


def test_grading_anew_needs_no_model(whole, copy):
    settings = OmegaConf.load(copy / "config.yaml")
    settings.checkpoint, settings.model.path, settings.model.backbone = "/gone", "/gone", None
    OmegaConf.save(settings, copy / "config.yaml")
    assert earlier(f"rescore={copy}") == whole[1] and records(copy) == records(whole[0])
    found = earlier(f"rescore={copy}", f"task.passkey._target_={__name__}.Strict")
    assert found["passkey/ratio_4"] == 0.5 and found["perplexity/ratio_4"] == whole[1]["perplexity/ratio_4"]
    changed = OmegaConf.load(copy / "config.yaml")
    assert changed.task.passkey._target_ == f"{__name__}.Strict" and changed.task.passkey.lengths == [300]
    with pytest.raises(ValueError, match=r"task.needle.seed is not allowed with rescore=.*: perplexity, passkey"):
        earlier(f"rescore={copy}", "+task.needle.seed=2")


@pytest.mark.parametrize("setting", ["task.passkey.seed=2", "task.passkey={}", "+task.passkey.strictness=2"])
def test_grading_anew_keeps_what_predictions_depend_on(copy, setting):
    key = setting.lstrip("+").partition("=")[0]
    with pytest.raises(ValueError, match=f"{key} is not allowed with rescore=.*; allowed: task.passkey._target_$"):
        earlier(f"rescore={copy}", setting)
    more = [f"task.passkey._target_={__name__}.Stricter", "+task.passkey.strictness=0.25"]
    assert earlier(f"rescore={copy}", *more)["passkey/dense"] == 0.25
    assert OmegaConf.load(copy / "config.yaml").task.passkey.strictness == 0.25


def test_grading_anew_that_fails_changes_nothing(copy):
    before = {file.name: file.read_bytes() for file in copy.glob("*.*") if file.name != "run.json"}
    with pytest.raises(ZeroDivisionError):
        earlier(f"rescore={copy}", f"task.passkey._target_={__name__}.Broken")
    assert {file.name: file.read_bytes() for file in copy.glob("*.*") if file.name != "run.json"} == before


def test_a_folder_that_is_no_run_is_refused_and_not_made(tmp_path):
    command = [warm_python(), ROOT / "evaluate.py", f"resume={tmp_path}/gone"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    said = f"error: resume={tmp_path}/gone: no such folder; allowed: the folder of an evaluation\n"
    assert done.returncode == 1 and done.stderr.endswith(said)
    for name in ("resume", "++rescore"):
        with pytest.raises(
            SystemExit, match=f"{name.lstrip('+')}={tmp_path}: there is no config.yaml in it; allowed: "
        ):
            check_earlier_run(["ratio=4", f"{name}='{tmp_path}'"])
    check_earlier_run(["resume=null", "-m", "ratio=2,4", f"checkpoint={tmp_path}/gone"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", [{"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}, {"SLURM_STEP_NUM_TASKS": "2"}])
def test_more_processes_than_devices_are_refused(launcher, tmp_path, monkeypatch):
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"devices x num_nodes = 1 is not allowed where 2 processes .*; allowed: 2"):
        evaluate(composed("evaluate", "model=tiny", "accelerator=cpu", f"run_folder={tmp_path}"))


def test_a_link_to_a_checkpoint_is_followed_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "latest").symlink_to("run")
    cfg = composed("evaluate", f"checkpoint={tmp_path}/latest", f"run_folder={tmp_path}/out", "model=tiny")
    with pytest.raises(Exception, match="run"):
        evaluate(cfg)
    assert cfg.checkpoint == str(tmp_path / "run")


def test_no_tasks_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"task=\[\] is not allowed; allowed: at least one of conf/task"):
        evaluate(composed("evaluate", "task=[]", f"run_folder={tmp_path}"))


def test_a_bad_batch_size_ends_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="batch_size=0 is not allowed; allowed: an integer, at least 1"):
        evaluate(composed("evaluate", "checkpoint=/gone", "batch_size=0", f"run_folder={tmp_path}"))


def test_another_option_is_refused_with_the_likeliest_first():
    conf = ROOT / "conf"
    with pytest.raises(SystemExit, match="task=perplexty is not allowed; allowed: perplexity, multi_turn_perplexity, "):
        check_options(["ratio=4", "task=[passkey, 'perplexty']"], conf)
    with pytest.raises(SystemExit, match=r"model=lama3 is not allowed; allowed: llama3, .*tiny"):
        check_options(["model=lama3"], conf)
    fine = [
        "task=[perplexity,needle]",
        "'task=[]'",
        "model=tiny,qwen2",
        "task.perplexity.length=1",
        "ratio=[2,4]",
        "-m",
    ]
    check_options(
        [*fine, "data=text", "+experiment=pretrain_qwen2", "hydra/launcher=basic", "tuning=choice(a,b)"], conf
    )
    check_options(["--config-dir=/mine", "model=mine"], conf)
