"""Evaluate before, during and after training; log scalars and figures, and write files to the run's folder."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from beacon_lit.arch.checkpoint.sharded import is_spread
from beacon_lit.evaluation.checks import check_limits
from beacon_lit.evaluation.modes import Model, choose_modes
from beacon_lit.evaluation.ranks import Ranks
from beacon_lit.evaluation.results import flat_metrics, make_figures, save
from beacon_lit.evaluation.runner import check, check_batch_size, run
from beacon_lit.evaluation.table import cost_table, score_table
from beacon_lit.evaluation.task import Results, Score, Subject, Task
from beacon_lit.loggers import log_figure, log_metrics
from beacon_lit.record import command_line

log = logging.getLogger(__name__)

BEFORE, AFTER = "before training", "after training"


class EvaluationCallback(Callback):
    """Run tasks every few optimizer steps, and print a table of the first and the last results at the end.

    The callback reads `pl_module.lm`, `pl_module.tokenizer` and `trainer.datamodule.validation_documents()`. Ranks
    share the examples; if the model's parameters are spread over ranks, every rank runs all examples, so that the ranks
    gather parameters together. Rank zero writes. Modes without beacons are scored once if only beacons are trained. A
    resumed run keeps the first results of the original run, as far as its tasks are the same.

    Logged: "eval/perplexity/ratio_8" and so on, and further numbers of a task under "more_eval/". Written to `folder`:
    `metrics.json`, `predictions.jsonl`, figures and `report.html` of the newest results; `before_training/` holds the
    first results.

    Args:
        tasks: tasks by name; None leaves a task out.
        folder: the run's folder.
        modes: "dense", "window-only" and ratios; None: "dense", "window-only" and every ratio of the model.
        batch_size: examples per batch.
        every_n_steps: optimizer steps between evaluations; None: no evaluation between the first and the last.
        at_start: evaluate before the first step.
        at_end: evaluate after the last step.

    Attributes:
        first, last: results (task name -> mode name -> Score), empty before the evaluation in question.

    Raises:
        ValueError: no task, or `every_n_steps` or `batch_size` below 1.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task | None],
        folder: str | Path,
        modes: Sequence[str | int] | None = None,
        batch_size: int = 1,
        every_n_steps: int | None = None,
        at_start: bool = True,
        at_end: bool = True,
    ) -> None:
        self.tasks = {name: task for name, task in tasks.items() if task is not None}
        if not self.tasks:
            raise ValueError(
                "tasks=[] is not allowed; allowed: at least one task; to train without: callbacks.evaluation=null"
            )
        check_limits(every_n_steps=every_n_steps)
        check_batch_size(batch_size)
        self.folder = Path(folder)
        self.modes = modes
        self.batch_size = batch_size
        self.every_n_steps = every_n_steps
        self.at_start = at_start
        self.at_end = at_end
        self.first: dict[str, dict[str, Score]] = {}
        self.last: dict[str, dict[str, Score]] = {}
        self._known: dict[str, dict[str, Score]] = {}
        self._last_step = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check modes, files and lengths now, unless the evaluation before the first step is about to do so."""
        modes = choose_modes(cast(Model, pl_module.lm), self.modes)
        if not self.at_start or trainer.ckpt_path is not None:
            check(self.tasks, self._subject(trainer, pl_module), modes)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate before the first step."""
        if self.at_start and not self.first and trainer.global_step == 0:
            self.first = self._evaluate(trainer, pl_module)
            self._publish(trainer, {BEFORE: self.first}, self.folder / "before_training")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Evaluate after every `every_n_steps` optimizer steps, whatever the number of accumulated batches."""
        step = trainer.global_step
        if self.every_n_steps and step and step % self.every_n_steps == 0 and step != self._last_step:
            self.last, self._last_step = self._evaluate(trainer, pl_module), step
            self._publish(trainer, self._runs(f"step {step}"), self.folder)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate, unless the last step was evaluated; publish the results as those after training in any case."""
        if not self.at_end:
            return
        fresh = not self.last or trainer.global_step != self._last_step
        if fresh:
            self.last, self._last_step = self._evaluate(trainer, pl_module), trainer.global_step
        self._publish(trainer, self._runs(AFTER), self.folder, scalars=fresh)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the tables of scores and of costs, once the progress bar is closed."""
        runs = self._runs(AFTER if self._last_step == trainer.global_step else f"step {self._last_step}")
        if runs and trainer.is_global_zero:
            Console().print(score_table(runs))
            if self.last:
                Console().print(cost_table(self.last))

    def state_dict(self) -> dict[str, Any]:
        """Return the first results without predictions, as plain values, and the step of the last evaluation."""
        first = {
            task: {mode: {"value": score.value, "details": dict(score.details)} for mode, score in scores.items()}
            for task, scores in self.first.items()
        }
        tasks = {name: repr(task) for name, task in self.tasks.items()}
        return {"first": first, "last_step": self._last_step, "tasks": tasks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._last_step = state_dict["last_step"]
        own = {name: repr(task) for name, task in self.tasks.items()}
        then = state_dict.get("tasks", own)
        self.first = {
            name: {mode: Score(**score) for mode, score in scores.items()}
            for name, scores in state_dict["first"].items()
            if name in own and then.get(name) == own[name]
        }
        for name in sorted(own.keys() - self.first.keys() if state_dict["first"] else ()):
            log.warning(f"task.{name} differs from the run that is resumed, whose first results are left out")

    def _subject(self, trainer: Trainer, pl_module: LightningModule) -> Subject:
        lm, tokenizer = cast(Model, pl_module.lm), cast(PreTrainedTokenizerBase, pl_module.tokenizer)
        return Subject(lm, tokenizer, trainer.datamodule.validation_documents)  # type: ignore[attr-defined]

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, dict[str, Score]]:
        subject = self._subject(trainer, pl_module)
        lm = subject.lm
        # Ranks that gather parameters together must run the same examples at the same time.
        ranks = Ranks() if is_spread(lm) else Ranks(trainer.global_rank, trainer.world_size)
        modes = choose_modes(lm, self.modes)
        fixed = [mode for mode in modes if self._known and not mode.uses_beacons and only_beacons_train(lm)]
        changed = [mode for mode in modes if mode not in fixed]
        with trainer.precision_plugin.forward_context():
            fresh = run(
                self.tasks,
                subject,
                changed,
                batch_size=self.batch_size,
                ranks=ranks,
                progress=trainer.is_global_zero,
            )
        self._known = {
            task: {mode.name: (self._known if mode in fixed else fresh)[task][mode.name] for mode in modes}
            for task in self.tasks
        }
        return self._known

    def _runs(self, label: str) -> dict[str, Results]:
        """Return the first results and, under `label`, the last ones, as far as they exist."""
        return {name: results for name, results in ((BEFORE, self.first), (label, self.last)) if results}

    def _settings(self) -> dict[str, Any]:
        """Return the run's config for the report, or {} if the folder has none."""
        file = self.folder / "config.yaml"
        return yaml.safe_load(file.read_text()) if file.is_file() else {}

    def _publish(self, trainer: Trainer, runs: Mapping[str, Results], folder: Path, scalars: bool = True) -> None:
        """Log and write the last of the results, with or without scalars; the figures show all results."""
        results = list(runs.values())[-1]
        headlines = flat_metrics(results, details=False)
        values = {f"eval/{name}": value for name, value in headlines.items()}
        values |= {f"more_eval/{name}": value for name, value in flat_metrics(results).items() if name not in headlines}
        if scalars:
            log_metrics(trainer, values)
        if not trainer.is_global_zero:
            return
        figures = make_figures(self.tasks, runs)
        save(folder, self.tasks, runs, figures, self._settings(), command_line())
        for logger in trainer.loggers:
            for name, figure in figures.items():
                log_figure(logger, f"eval/{name}", figure, trainer.global_step)


def only_beacons_train(lm: Model) -> bool:
    """Whether only beacon parameters are trained, so that modes without beacons keep their results."""
    beacons = {id(parameter) for parameter in lm.beacon_parameters()}
    return all(id(parameter) in beacons for parameter in lm.parameters() if parameter.requires_grad)
