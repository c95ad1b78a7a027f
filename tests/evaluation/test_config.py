import re
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from beacon_lit.callbacks import EvaluationCallback, NanGuard, ThroughputCallback
from beacon_lit.cli import resolvers
from beacon_lit.evaluation import Passkey, Perplexity

CONF = str(Path(__file__).parents[2] / "conf")


def compose(*overrides):
    resolvers.register()
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        return hydra.compose(overrides=["+beacon.window=256", *overrides])


def test_tasks_compose_side_by_side():
    tasks = hydra.utils.instantiate(compose("+task=[perplexity,passkey]").task, _convert_="all")
    assert tasks["perplexity"] == Perplexity(length=1024, max_pieces=3)
    assert isinstance(tasks["passkey"], Passkey) and tasks["passkey"].lengths == [512, 602]


def test_tasks_are_chosen_and_changed_on_the_command_line():
    cfg = compose("+task=[perplexity]", "task.perplexity.length=8192")
    assert list(cfg.task) == ["perplexity"] and hydra.utils.instantiate(cfg.task.perplexity).length == 8192


def test_bad_values_of_a_config_are_named():
    with pytest.raises(Exception, match="length=1"):
        hydra.utils.instantiate(compose("+task=[perplexity]", "task.perplexity.length=1").task)


def test_callbacks_share_the_tasks(tmp_path):
    cfg = compose("+task=[perplexity,passkey]", "+callbacks=default", f"+run_folder={tmp_path}")
    callbacks = {name: hydra.utils.instantiate(node) for name, node in cfg.callbacks.items()}
    evaluation = callbacks["evaluation"]
    assert isinstance(evaluation, EvaluationCallback)
    assert {name: type(task) for name, task in evaluation.tasks.items()} == {
        "perplexity": Perplexity,
        "passkey": Passkey,
    }
    assert evaluation.folder == tmp_path and evaluation.modes is None
    assert type(evaluation.tasks["passkey"].lengths) is list
    assert isinstance(callbacks["throughput"], ThroughputCallback) and isinstance(callbacks["nan_guard"], NanGuard)
    order = list(callbacks)
    assert order.index("throughput") < order.index("evaluation")


def test_every_config_opens_with_a_command():
    for path in [*Path(CONF, "task").glob("*.yaml"), *Path(CONF, "callbacks").glob("*.yaml")]:
        text = path.read_text()
        assert re.search(r"\A(#.*\n)*#\s+python ", text), path
        assert OmegaConf.create(text)
