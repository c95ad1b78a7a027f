"""The page of a run: scores, costs, figures, and for each task its settings, numbers and examples."""

import inspect
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from beacon_lit.evaluation.costs import by_mode
from beacon_lit.evaluation.modes import DENSE, split_baseline
from beacon_lit.evaluation.report.examples import shown_examples
from beacon_lit.evaluation.report.facts import cost_rows, fact_rows
from beacon_lit.evaluation.task import ModeScores, Results, Task
from beacon_lit.files import write_text

REPORT_FILE = "report.html"
BROAD = 8  # inches; a wider figure has a row of its own


def write_report(
    folder: Path,
    tasks: Mapping[str, Task],
    runs: Mapping[str, Results],
    figures: Mapping[str, Figure],
    settings: Mapping[str, Any],
    command: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Write `report.html`, which needs no other file.

    Args:
        folder: the folder of the run, which has a PNG of each figure.
        tasks: tasks by name.
        runs: label ("before training", or "" for a single run) -> results. All of the last run is shown, of the others
            the scores.
        figures: figures by name; the figures of a task begin with its name.
        settings: the whole config, resolved; {} if it is not known.
        command: the command that started the run; "" if it is not known.
        notes: sentences about the run, such as which modes are left out.
    """
    newest = list(runs.values())[-1]
    images = {name: _image(figure, folder / f"{name}.png") for name, figure in figures.items()}
    owners = {name: _owner(name, newest) for name in images}
    modes = list(dict.fromkeys(mode for scores in newest.values() for mode in scores))
    page = _environment().get_template("report.html.jinja")
    html = page.render(
        title=settings.get("checkpoint") or (settings.get("model") or {}).get("path") or folder.resolve().name,
        label=list(runs)[-1],
        date=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        command=command,
        settings=yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True) if settings else "",
        notes=notes,
        modes=modes,
        has_baselines=any(map(split_baseline, modes)),
        scores=_score_rows(tasks, runs),
        costs=cost_rows(by_mode(newest)),
        images={name: image for name, image in images.items() if owners[name] is None},
        sections=[
            {
                "name": name,
                "metric": tasks[name].metric,
                "about": _description(tasks[name]),
                "settings": _own_settings(settings, name),
                "facts": fact_rows({mode: score.predictions for mode, score in scores.items()}),
                "images": {image: images[image] for image in images if owners[image] == name},
                "details": _details(scores),
                "count": max(len(score.predictions) for score in scores.values()),
                "examples": shown_examples(scores, tasks[name]),
            }
            for name, scores in newest.items()
        ],
    )
    write_text(folder / REPORT_FILE, html)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("beacon_lit.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["code"] = lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    return environment


def _number(value: float | None) -> str:
    """Write a score for a table."""
    if value is None:
        return "-"
    return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.2f}"


def _image(figure: Figure, png: Path) -> dict[str, Any]:
    """Return a figure as a data address, with its width, and whether it needs a row of its own (`broad`)."""
    data = b64encode(png.read_bytes()).decode()
    return {
        "uri": f"data:image/png;base64,{data}",
        "broad": figure.get_figwidth() > BROAD,
        "inches": figure.get_figwidth(),
    }


def _owner(figure: str, tasks: Results) -> str | None:
    """Return the task of a figure: the longest task name that the figure's name begins with."""
    return max((name for name in tasks if figure.startswith(f"{name}_")), key=len, default=None)


def _score_rows(tasks: Mapping[str, Task], runs: Mapping[str, Results]) -> list[dict[str, Any]]:
    """Make a row per task and run; `best` lists the best modes except dense, unless all of them are equal."""
    rows = []
    for name in list(runs.values())[-1]:
        for label, results in runs.items():
            values = {mode: score.value for mode, score in results.get(name, {}).items()}
            others = [value for mode, value in values.items() if mode != DENSE]
            top = (max if tasks[name].higher_is_better else min)(others, default=None)
            best = [mode for mode, value in values.items() if mode != DENSE and value == top]
            rows.append({"task": name, "label": label, "values": values, "best": best if len(set(others)) > 1 else []})
    return rows


def _description(task: Task) -> list[str]:
    """Return the paragraphs of a task's docstring before its settings."""
    text = inspect.getdoc(type(task)) or ""
    return re.split(r"\n\s*\n", re.split(r"\n(?:Args|Attributes|Raises):\n", text)[0].strip())


def _own_settings(settings: Mapping[str, Any], task: str) -> str:
    own = (settings.get("task") or {}).get(task) or {}
    return ", ".join(f"{name}={value}" for name, value in own.items() if name != "_target_")


def _details(scores: ModeScores) -> dict[str, dict[str, float]]:
    """Return detail -> mode -> number."""
    names = dict.fromkeys(detail for score in scores.values() for detail in score.details)
    return {
        name: {mode: score.details[name] for mode, score in scores.items() if name in score.details} for name in names
    }
