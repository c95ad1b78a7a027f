"""Every run and every sweep has a folder of its own, whoever else starts at the same time."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch.distributed import TCPStore

from beacon_lit.cli import evaluate, generate, train
from beacon_lit.cli.command import command
from beacon_lit.cli.folder import FolderCallback, claim, own_folder
from beacon_lit.files import new_folder
from beacon_lit.record import is_first, recorded, reserved
from beacon_lit.runs import link_latest
from benchmarks.distributed.launch import free_port
from tests.killed import half_written


def started(name: str, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[tuple[Path, Path]]:
    """The folders (of the run, of its sweep) of a command that does nothing but look at its config."""
    seen = []

    @command(name)
    def main(cfg: DictConfig) -> None:
        hydra = HydraConfig.get()
        seen.append((Path(hydra.runtime.output_dir), Path(hydra.sweep.dir)))

    monkeypatch.setattr(sys, "argv", [f"{name}.py", *overrides])
    main()
    return seen


@pytest.fixture
def stopped_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, where every run starts in the same second."""

    class Clock:
        @staticmethod
        def now() -> datetime:
            return datetime(2026, 11, 26, 12, 30, 59)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hydra.core.utils.datetime", Clock)
    return tmp_path


@pytest.mark.parametrize("name", ["train", "evaluate", "generate", "prepare"])
def test_runs_that_start_in_the_same_second(name: str, stopped_clock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["output=x", "corpus.sources={}", "corpus.amounts=8:8"] if name == "prepare" else ["model=tiny"]
    folders = [folder for _ in range(3) for folder, _ in started(name, monkeypatch, *given)]
    assert len({*folders}) == 3 and [folder.name for folder in folders] == ["12-30-59", "12-30-59-2", "12-30-59-3"]
    assert all((folder / ".hydra" / "config.yaml").is_file() for folder in folders)


@pytest.mark.parametrize("name", ["train", "evaluate", "generate"])
def test_sweeps_that_start_in_the_same_second(name: str, stopped_clock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beacon_lit.sweeps.SweepCallback.on_multirun_end", lambda *args, **kwargs: None)
    monkeypatch.setattr("atexit.register", lambda *args: None)
    first, second = (started(name, monkeypatch, "-m", "model=tiny", "seed=1,2") for _ in range(2))
    assert len({folder for folder, _ in [*first, *second]}) == 4
    assert {folder.parent.name for folder, _ in first} == {"12-30-59"}
    assert {folder.parent.name for folder, _ in second} == {"12-30-59-2"}
    assert {sweep.absolute() for _, sweep in second} == {folder.parent for folder, _ in second}


@pytest.mark.parametrize("name", ["train", "evaluate", "generate"])
def test_a_run_that_is_refused_leaves_no_folder(
    name: str, stopped_clock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = {"train": train, "evaluate": evaluate, "generate": generate}
    monkeypatch.setattr(
        sys, "argv", [f"{name}.py", "model=tiny", "beacon.ratios=[3]", "file=none.txt"][: 4 - (name != "generate")]
    )
    with pytest.raises(SystemExit, match="error: "):
        ends[name].main()
    assert not [*stopped_clock.iterdir()]
    monkeypatch.setattr(sys, "argv", [*sys.argv, "hydra.run.dir=mine"])
    with pytest.raises(SystemExit, match="error: "):
        ends[name].main()
    assert (stopped_clock / "mine").is_dir()  # the user's own


def test_a_folder_with_a_result_is_kept(stopped_clock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []

    @command("train")
    def main(cfg: DictConfig) -> None:
        folders.append(Path(HydraConfig.get().runtime.output_dir))
        (folders[-1] / "checkpoints").mkdir()
        if len(folders) > 1:
            (folders[-1] / "checkpoints" / "last.ckpt").touch()
        raise SystemExit("error: refused")

    monkeypatch.setattr(sys, "argv", ["train.py", "model=tiny"])
    for kept in (False, True):
        with pytest.raises(SystemExit):
            main()
        assert folders[-1].exists() == kept


def test_a_folder_with_a_name_is_used_as_given(stopped_clock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        ((folder, _),) = started("train", monkeypatch, "model=tiny", "hydra.run.dir=outputs/my-run")
        assert folder == stopped_clock / "outputs" / "my-run"


@pytest.mark.parametrize("setting", ["resume", "rescore"])
def test_an_earlier_evaluation_keeps_its_folder(
    setting: str, stopped_clock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stopped_clock / "earlier").mkdir()
    ((folder, _),) = started("evaluate", monkeypatch, "model=tiny", f"{setting}=earlier")
    assert folder == stopped_clock / "earlier" and not (stopped_clock / "outputs").exists()


def test_a_folder_that_cannot_be_made_ends_the_command(stopped_clock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stopped_clock / "outputs").write_text("a file")
    with pytest.raises(SystemExit, match=r"hydra\.run\.dir=outputs/.* allowed: a folder to write to"):
        started("train", monkeypatch, "model=tiny")


def test_many_at_the_same_time_claim_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        claimed = [*threads.map(claim, [tmp_path / "run"] * 40)]
    assert len({*claimed}) == 40 and all(folder.is_dir() for folder in claimed)


def test_ranks_of_torchrun_share_the_folder_of_rank_zero(tmp_path: Path) -> None:
    port = free_port()
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    of_run = {
        "TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    (tmp_path / "run").mkdir()  # of another run
    ranks = [(tmp_path / f"run{'' if rank == 0 else '-late'}", {**of_run, "RANK": str(rank)}) for rank in (1, 2, 0)]
    with ThreadPoolExecutor(3) as threads:
        folders = [*threads.map(lambda rank: own_folder(*rank), ranks)]
    assert folders == [tmp_path / "run-2"] * 3
    again = own_folder(tmp_path / "run", {**of_run, "RANK": "0", "TORCHELASTIC_RESTART_COUNT": "1"})
    assert again == tmp_path / "run-3"
    with pytest.raises(ValueError, match="cannot agree on a folder"):
        own_folder(tmp_path / "run", {**of_run, "TORCHELASTIC_USE_AGENT_STORE": "False"})
    del store


def test_tasks_of_srun_share_a_folder_of_their_job(tmp_path: Path) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    days = [tmp_path / "2026-11-26" / "23-59-59", tmp_path / "2026-11-27" / "00-00-00"]
    folders = {own_folder(day, {**job, "SLURM_PROCID": str(task)}) for task, day in enumerate(days)}
    assert folders == {tmp_path / "slurm" / "7.0"}
    assert own_folder(days[0], {**job, "SLURM_RESTART_COUNT": "1"}) == tmp_path / "slurm" / "7.0.1"


def test_processes_of_lightnings_launcher_claim_nothing(tmp_path: Path) -> None:
    assert own_folder(tmp_path / "run", {"LOCAL_RANK": "1"}) == tmp_path / "run"
    assert not (tmp_path / "run").exists() and not is_first({"LOCAL_RANK": "1"}) and is_first({"LOCAL_RANK": "0"})


def test_a_run_in_progress_keeps_others_out_of_its_folder(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"run_folder": str(tmp_path)})
    reader, writer = os.pipe()
    with reserved(tmp_path):
        child = os.fork()
        if child == 0:  # a lock keeps out other processes alone
            try:
                recorded(lambda cfg: {})(cfg)
            except ValueError as error:
                os.write(writer, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
    said = os.read(reader, 1000).decode()
    assert said == f"run_folder={tmp_path} is the folder of a run in progress; allowed: another one"
    assert not (tmp_path / "run.json").exists()
    recorded(lambda cfg: {})(cfg)
    assert (tmp_path / "run.json").is_file()


def test_a_run_deletes_what_a_killed_one_left_half_written(tmp_path: Path) -> None:
    half_written(tmp_path / "run.json")
    recorded(lambda cfg: {})(OmegaConf.create({"run_folder": str(tmp_path)}))
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "run.json"}


def test_a_run_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cfg = OmegaConf.create({"run_folder": f"{tmp_path}/file/run"})
    with pytest.raises(ValueError, match=r"run_folder=.*/file/run: Not a directory; allowed: a folder that can be"):
        recorded(lambda cfg: {})(cfg)


def test_the_latest_run_is_the_one_that_started_last(tmp_path: Path) -> None:
    early, late = (tmp_path / "outputs" / "day" / name for name in ("early", "late"))
    for hour, folder in enumerate((early, late)):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(f'{{"started": "2026-11-26T0{hour}:00:00+00:00"}}')
    link = tmp_path / "outputs" / "latest"
    link_latest(early)
    assert link.resolve() == early
    link_latest(late)
    link_latest(early)  # which has loaded its model for longer
    assert link.resolve() == late


def test_of_two_conversions_to_one_folder_the_second_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with (
        pytest.raises(ValueError, match=r"target=.* is not allowed, it exists"),
        new_folder("target", target) as folder,
    ):
        (folder / "file").write_text("second")
        with new_folder("target", target) as other:
            (other / "file").write_text("first")
    assert (target / "file").read_text() == "first" and [*tmp_path.iterdir()] == [target]


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder("target", tmp_path / "target") as folder:
        (folder / "file").touch()
        raise RuntimeError
    assert not [*tmp_path.iterdir()]


def test_the_first_given_folder_is_used_again() -> None:
    assert FolderCallback([None, "b"]).again == "b" and FolderCallback().again is None
