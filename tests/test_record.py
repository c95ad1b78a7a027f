from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from beacon_lit.record import command_line
from tests.configs import ROOT


def test_the_command_line_is_that_of_the_hydra_job(monkeypatch):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # another test may have run a job
    assert command_line() == ""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("evaluate", overrides=["ratio=[2,4]", "hydra.job.name=evaluate"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    assert command_line() == "python evaluate.py 'ratio=[2,4]'"
