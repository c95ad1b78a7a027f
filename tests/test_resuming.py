"""A resumed run does what its settings say, or refuses: no setting of the checkpoint replaces one silently."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch.optim.lr_scheduler import ExponentialLR

from beacon_lit.cli import resolvers
from beacon_lit.cli.resumed import with_settings_of_resumed
from beacon_lit.cli.train import main, train
from beacon_lit.module import BeaconModule
from beacon_lit.record import flat_settings
from beacon_lit.runs import find_beacons, find_checkpoint
from beacon_lit.tuning import set_hyperparameters
from tests.configs import composed, small_run

resolvers.register()
SHORT = ["trainer.max_steps=4", "schedule.num_warmup_steps=2", "logger=none", "task=[perplexity]"]
SHORT += ["callbacks.evaluation.modes=[dense]", "task.perplexity.length=128", "task.perplexity.max_pieces=1"]


def settings(inputs: tuple[Path, Path], folder: Path, *more: str) -> list[str]:
    kept = [setting for setting in small_run(*inputs, folder) if not setting.startswith(("task.", "trainer.max"))]
    return [*kept, *SHORT, *more]


@pytest.fixture(scope="module")
def run(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with a checkpoint after the second."""
    folder = tmp_path_factory.mktemp("run")
    more = ["callbacks.checkpoint.every_n_train_steps=2", "callbacks.checkpoint.save_top_k=-1"]
    train(composed("train", *settings(inputs, folder, *more)))
    return folder


def resumed(run: Path, inputs: tuple[Path, Path], folder: Path, *more: str) -> dict[str, Any]:
    """The last checkpoint of a run that goes on after the second step."""
    at = f"resume={run}/checkpoints/step-000002.ckpt"
    train(composed("train", *settings(inputs, folder, at, "callbacks.evaluation.at_end=false", *more)))
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_the_optimizers_settings_are_applied(run: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    more = ["optimizer.lr=1e-2", "optimizer.betas=[0.5,0.6]", "optimizer.weight_decay=0.3", "schedule.name=constant"]
    (group,) = resumed(run, inputs, tmp_path, *more)["optimizer_states"][0]["param_groups"]
    assert group["lr"] == group["initial_lr"] == 1e-2 and group["weight_decay"] == 0.3
    assert list(group["betas"]) == [0.5, 0.6]
    assert OmegaConf.load(tmp_path / "config.yaml").optimizer.lr == 1e-2


def test_a_new_rate_follows_the_schedule_from_the_step_of_the_checkpoint(
    run: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    more = ["optimizer.lr=1e-2", "trainer.max_steps=6", "schedule.name=linear"]
    checkpoint = resumed(run, inputs, tmp_path / "longer", *more, "trainer.max_steps=6")
    assert checkpoint["global_step"] == 6 and checkpoint["lr_schedulers"][0]["last_epoch"] == 6
    half = resumed(run, inputs, tmp_path / "half", *more, "trainer.max_steps=3", "schedule.num_warmup_steps=0")
    assert half["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0)
    assert half["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 1e-2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("module.seed=1", r"module\.seed=1 is not allowed: the run that is resumed has module\.seed=0; allowed: the"),
        ("data.seed=1", "seed=1 differs from the run that is resumed, which had seed=0; allowed: the same data"),
        ("data.max_tokens=200", "max_tokens=200 differs from the run that is resumed"),
        ("optimizer._target_=torch.optim.Adam", "optimizer=Adam is not allowed: .* has optimizer=AdamW"),
        ("module.schedule=null", "schedule=None is not allowed: .* has schedule=get_scheduler"),
        ("beacon.sink=2", r"beacon\.sink=2"),
        ("ratio=[2]", r"beacon\.ratios=\[2\] is not allowed"),
        ("init_from={run}", "init_from=.* is not allowed with resume=.*; allowed: one of them"),
    ],
)
def test_what_the_checkpoint_belongs_to_is_refused(
    override: str, message: str, run: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        resumed(run, inputs, tmp_path, override.format(run=run))


def test_first_results_of_another_task_are_left_out(
    run: Path, inputs: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (name,) = (name for name in torch.load(run / "checkpoints/last.ckpt")["callbacks"] if "Evaluation" in name)
    with caplog.at_level(logging.WARNING):
        same = resumed(run, inputs, tmp_path / "same")["callbacks"][name]["first"]
        assert same == torch.load(run / "checkpoints/last.ckpt")["callbacks"][name]["first"] and not caplog.records
        assert not resumed(run, inputs, tmp_path / "other", "task.perplexity.length=96")["callbacks"][name]["first"]
    assert "task.perplexity differs from the run that is resumed" in caplog.text
    assert not (tmp_path / "other" / "before_training").exists(), "the model has been trained already"


def test_a_schedule_with_rates_of_its_own_keeps_its_rate() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]}]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    schedule = ExponentialLR(optimizer, 0.1)
    optimizer.step()
    schedule.step()
    set_hyperparameters(optimizer.param_groups, [{"lr": 0.5, "momentum": 0.9}], [schedule])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05) and optimizer.param_groups[0]["momentum"] == 0.9
    with pytest.raises(ValueError, match=r"optimizer\.lr=0\.2 differs from the checkpoint's 0\.5; allowed with Exp"):
        set_hyperparameters(optimizer.param_groups, [{"lr": 0.2}], [schedule])


def test_without_a_schedule_the_rate_is_the_new_one() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    set_hyperparameters(optimizer.param_groups, [{"lr": 0.2}], [])
    assert optimizer.param_groups[0]["lr"] == 0.2


def test_a_folder_stands_for_its_last_checkpoint(run: Path, tmp_path: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    assert find_checkpoint(run) == find_checkpoint(run / "checkpoints") == find_checkpoint(last) == last
    (tmp_path / "checkpoints").mkdir()
    for step in (2, 10, 9):
        (tmp_path / "checkpoints" / f"step-{step:06d}.ckpt").touch()
    assert find_checkpoint(tmp_path).name == "step-000010.ckpt", "of a run that was interrupted"


@pytest.mark.parametrize(
    ("path", "message"),
    [("no-such", "does not exist"), ("beacons", "has no checkpoint in it"), ("config.yaml", "has no checkpoint in it")],
)
def test_what_is_no_checkpoint_is_refused_before_anything_is_loaded(
    path: str, message: str, run: Path, inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beacon_lit.datamodule.BeaconDataModule.__init__", None)
    with pytest.raises(ValueError, match=f"resume=.*{path} {message}; allowed: a checkpoint"):
        train(composed("train", *settings(inputs, tmp_path, f"resume={run}/{path}")))


def test_config_yaml_names_the_checkpoint_itself(run: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(run)
    more = [f"resume={tmp_path}/latest", "trainer.max_steps=5", "callbacks.evaluation=null"]
    train(composed("train", *settings(inputs, tmp_path / "run", *more)))
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").resume == str(run.resolve() / "checkpoints" / "last.ckpt")


def test_a_run_that_is_refused_leaves_the_link_to_the_latest_run(
    run: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    first, refused = (tmp_path / "outputs" / "day" / name for name in ("1", "2"))
    train(composed("train", *settings(inputs, first, "trainer.max_steps=1", "callbacks.evaluation=null")))
    with pytest.raises(
        ValueError, match=r"beacon\.ratios=\[4\] is not allowed: the run .*; allowed: the same, or .*init_from="
    ):
        train(composed("train", *settings(inputs, refused, f"resume={run}", "ratio=[4]")))
    assert (tmp_path / "outputs" / "latest").resolve() == first.resolve()


def test_an_interrupted_run_says_how_to_continue(
    inputs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def interrupt(module: BeaconModule, *args: object) -> None:
        if module.trainer.global_step == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(BeaconModule, "on_train_batch_start", interrupt, raising=False)
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit):
        train(composed("train", *settings(inputs, tmp_path, "callbacks.evaluation=null")))
    said = f"to continue from step-000001.ckpt: python train.py resume={tmp_path}"
    assert said in caplog.text
    with pytest.raises(
        ValueError, match=f"unfinished run, .*or the checkpoint {tmp_path}/checkpoints/step-000001.ckpt"
    ):
        find_beacons(tmp_path)


def test_a_resumed_run_has_the_settings_of_the_run(
    run: Path, inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = settings(inputs, tmp_path / "first", "logger=[csv]", "seed=3", "callbacks.evaluation=null")
    first = [word for word in first if not word.startswith(("run_folder", "logger=none"))]
    where = "hydra.run.dir={}"
    typed(monkeypatch, *first, where.format(tmp_path / "first"))
    again = (f"resume={tmp_path}/first", "trainer.max_steps=6", where.format(tmp_path / "again"))
    typed(monkeypatch, *again)
    configs = [OmegaConf.load(tmp_path / name / "config.yaml") for name in ("first", "again")]
    assert configs[1].trainer.max_steps == 6 and configs[1].seed == 3
    configs[1].trainer.max_steps = configs[0].trainer.max_steps
    one, other = (flat_settings(OmegaConf.to_container(config)) for config in configs)
    places = {name for name, value in one.items() if str(tmp_path / "first") in str(value)}
    assert {name for name in one if one[name] != other[name]} - places == {"resume"}
    assert torch.load(tmp_path / "again" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Run train.py in this process as if this had been typed."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    main()


@pytest.mark.parametrize("words", [["-m", "resume={run}"], ["seed=1"], ["resume=null"], ["resume={run}"]])
def test_no_settings_are_added_without_those_of_a_run(run: Path, words: list[str]) -> None:
    words = [word.format(run=run) for word in words]
    assert with_settings_of_resumed(words) == words


def test_settings_of_this_run_count(run: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    (tmp_path / ".hydra").mkdir()
    earlier = ["ratio=[2,4]", "+data.x=1", "~callbacks.look", "hydra.run.dir=a", "init_from=b", "resume=c", "seed=1"]
    (tmp_path / ".hydra" / "overrides.yaml").write_text(json.dumps(earlier))
    words = ["seed=2", f"resume='{tmp_path}/checkpoints'", "data.x=2"]
    assert with_settings_of_resumed(words) == ["ratio=[2,4]", "~callbacks.look", *words]
