"""Evaluation before, during and after training: scalars and figures to the loggers, files to the run folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning import Callback, LightningModule, Trainer
from rich.console import Console

from beacon_lit.arch.checkpoint.sharded import is_spread
from beacon_lit.evaluation.modes import Model, choose_modes
from beacon_lit.evaluation.ranks import Ranks
from beacon_lit.evaluation.results import flat_metrics, make_figures, save
from beacon_lit.evaluation.runner import check_batch_size, run
from beacon_lit.evaluation.table import score_table
from beacon_lit.evaluation.task import Results, Score, Subject, Task
from beacon_lit.loggers import log_figure, log_metrics
from beacon_lit.record import command_line

BEFORE, AFTER = "before training", "after training"


class EvaluationCallback(Callback):
    """Run tasks every few optimizer steps, and print a table of the first and the last results at the end.

    Reads `pl_module.lm`, `pl_module.tokenizer` and `trainer.datamodule.validation_documents()`. Ranks share the
    examples; where a model's parameters are spread over them, all ask the same, so that these can be gathered. Rank
    zero writes. Modes that beacons cannot change are scored once if
    the beacons alone are trained. A resumed run keeps the first results of the run that it goes on with.

    Logged: "eval/perplexity/ratio_8" and so on, a task's further numbers under "more_eval/". Written to `folder`:
    `metrics.json`, `predictions.jsonl`, figures and `report.html` of the newest results; `before_training/` holds the
    first.

    Args:
        tasks: by name.
        folder: the run's folder.
        modes: "dense", "window-only" and ratios; None = these two and every ratio of the model.
        batch_size: examples that are asked at once.
        every_n_steps: optimizer steps between evaluations; None = none on the way.
        at_start: evaluate before the first step.
        at_end: evaluate after the last.

    Attributes:
        first, last: results (task name -> mode name -> Score), empty until there are some.

    Raises:
        ValueError: no task, `every_n_steps` or `batch_size` below 1.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        folder: str | Path,
        modes: Sequence[str | int] | None = None,
        batch_size: int = 1,
        every_n_steps: int | None = None,
        at_start: bool = True,
        at_end: bool = True,
    ) -> None:
        if not tasks:
            raise ValueError("tasks: got none; give at least one, or leave this callback out")
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(
                f"every_n_steps: got {every_n_steps}; must be at least 1, or null for no evaluation on the way"
            )
        check_batch_size(batch_size)
        self.tasks = dict(tasks)
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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The evaluation before the first step; a resumed run has it already."""
        if self.at_start and not self.first:
            self.first = self._evaluate(trainer, pl_module)
            self._publish(trainer, {BEFORE: self.first}, self.folder / "before_training")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The evaluations on the way: after an optimizer step, not after each of the batches it adds up."""
        step = trainer.global_step
        if self.every_n_steps and step and step % self.every_n_steps == 0 and step != self._last_step:
            self.last, self._last_step = self._evaluate(trainer, pl_module), step
            self._publish(trainer, self._runs(f"step {step}"), self.folder)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last evaluation, unless the last step had one; its figures say so in any case."""
        if not self.at_end:
            return
        fresh = not self.last or trainer.global_step != self._last_step
        if fresh:
            self.last, self._last_step = self._evaluate(trainer, pl_module), trainer.global_step
        self._publish(trainer, self._runs(AFTER), self.folder, scalars=fresh)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The table, when the progress bar is gone."""
        runs = self._runs(AFTER if self._last_step == trainer.global_step else f"step {self._last_step}")
        if runs and trainer.is_global_zero:
            Console().print(score_table(runs))

    def state_dict(self) -> dict[str, Any]:
        """The first results without their predictions, as plain values, and the step of the last evaluation."""
        first = {
            task: {mode: {"value": score.value, "details": dict(score.details)} for mode, score in scores.items()}
            for task, scores in self.first.items()
        }
        return {"first": first, "last_step": self._last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._last_step = state_dict["last_step"]
        self.first = {
            task: {mode: Score(**score) for mode, score in scores.items()}
            for task, scores in state_dict["first"].items()
        }

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, dict[str, Score]]:
        lm: Model = pl_module.lm
        tokenizer: Any = pl_module.tokenizer
        subject = Subject(lm, tokenizer, trainer.datamodule.validation_documents)  # type: ignore[attr-defined]
        # Ranks that gather the parameters together must ask the same at the same time.
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
        """The first results, and the last under a label; without those there are none of."""
        return {name: results for name, results in ((BEFORE, self.first), (label, self.last)) if results}

    def _settings(self) -> dict[str, Any]:
        """The run's config, for the report; {} where there is none."""
        file = self.folder / "config.yaml"
        return yaml.safe_load(file.read_text()) if file.is_file() else {}

    def _publish(self, trainer: Trainer, runs: Mapping[str, Results], folder: Path, scalars: bool = True) -> None:
        """Log and write the last of the runs, with or without its scalars; the figures show all runs."""
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
    """Whether no parameter but the beacons' is trained, so that what uses none of them stays as it is."""
    beacons = {id(parameter) for parameter in lm.beacon_parameters()}
    return all(id(parameter) in beacons for parameter in lm.parameters() if parameter.requires_grad)
