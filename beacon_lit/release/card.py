"""The model card of released beacons, in Markdown with the hub's metadata."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from omegaconf import OmegaConf

from beacon_lit.arch import BeaconConfig, longest
from beacon_lit.release.runs import Run

TAGS = ["activation-beacon", "long-context", "kv-cache-compression"]
_PLAIN = ("data_root", "_target_", "_partial_", "_convert_", "seed")  # of a data source; not of interest to readers


def model_card(
    name: str, run: Run, evaluations: Sequence[Run], saved: Mapping[str, Any], license: str, notes: str
) -> ModelCard:
    """Write the card of a run's beacons.

    Args:
        name: what `from_pretrained` loads: OWNER/NAME, or a folder's name.
        run: the training.
        evaluations: evaluations whose scores the card shows.
        saved: settings beside the beacons, as `read_settings` returns them.
        license: identifier of the licence.
        notes: Markdown.
    """
    base = saved["backbone"]["name"]
    data = ModelCardData(
        base_model=base,
        library_name="beacon_lit",
        license=license,
        pipeline_tag="text-generation",
        tags=TAGS,
        model_name=name,
        eval_results=list(_eval_results(evaluations)) or None,
        ignore_metadata_errors=False,
    )
    beacon = BeaconConfig.from_dict(saved["beacon"])
    sections = [
        f"# {PurePath(name).name}: beacons for {base}",
        f"Trained [beacons](https://arxiv.org/abs/2401.03462) that compress the KV cache of {base} by "
        f"a ratio of {_listed(beacon.ratios)}. The backbone's weights are not included, and unchanged.",
        notes.strip(),
        f"## Use\n{_usage(name)}",
        f"## Settings\n{_settings(beacon, saved)}",
        f"## Training\n{_training(run)}",
        f"## Scores\n{_scores(evaluations)}",
        f"## Limits\n{_limits(beacon, saved)}",
        f"## Licence\n`{license}`, that of the backbone, from which the beacons were derived.",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n")


def _eval_results(evaluations: Sequence[Run]) -> Iterator[EvalResult]:
    for evaluation in evaluations:
        for task, scores in evaluation.scores.items():
            for mode, value in scores.items():
                if mode.startswith("ratio "):  # other modes are not of these beacons
                    yield EvalResult("text-generation", task, task, task, value, metric_name=mode)


def _usage(name: str) -> str:
    return f"""```python
from transformers import AutoTokenizer

from beacon_lit import BeaconChat, BeaconLM

lm = BeaconLM.from_pretrained("{name}", dtype="bfloat16").to("cuda")
chat = BeaconChat(lm, AutoTokenizer.from_pretrained("{name}"))
chat.read(open("book.txt").read())
print(chat.ask("Who is it about?"))
```
```
python generate.py checkpoint={name} file=book.txt
python evaluate.py checkpoint={name}
```"""


def _settings(beacon: BeaconConfig, saved: Mapping[str, Any]) -> str:
    budgets = "equal for all heads" if beacon.head_budgets is None else "a share for each KV head"
    rows = {
        "placement": beacon.placement,
        "window, sink, overlap": f"{beacon.window}, {beacon.sink}, {beacon.overlap} tokens",
        "ratios": _listed(beacon.ratios),
        "beacons": budgets,
        "trained projections": _listed(beacon.params) + (", and a LoRA adapter" if "adapter" in saved else ""),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _training(run: Run) -> str:
    config = run.config
    objective = OmegaConf.select(config, "module.objective._target_", default="beacon_lit.objectives.LanguageModeling")
    optimizer = config.optimizer
    lines = [
        f"{config.trainer.max_steps} steps of at most {config.data.max_tokens} tokens on {run.date}, "
        f"{run.seconds / 60:.0f} minutes; objective {objective.rsplit('.', 1)[-1]}, "
        f"{optimizer._target_.rsplit('.', 1)[-1]} with learning rate {optimizer.lr:g}, seed {config.seed}.",
        "Data:",
        *(f"- {_source(source)}" for source in cast(list, OmegaConf.to_container(config.data.train, resolve=True))),
    ]
    return "\n".join([*lines[:1], "", *lines[1:], *(["", "```", run.command, "```"] if run.command else [])])


def _source(source: Any) -> str:
    """Describe a source of training data: its kind, file names without folders, and settings."""
    if not isinstance(source, dict):
        return PurePath(str(source)).name
    kind = source.get("_target_", "").rsplit(".", 1)[-1]
    fields = {
        name: PurePath(value).name if name == "path" and isinstance(value, str) else value
        for name, value in source.items()
        if name not in _PLAIN and value is not None and not isinstance(value, dict)
    }
    return ", ".join([kind, *(f"{name} {value}" for name, value in fields.items())])


def _scores(evaluations: Sequence[Run]) -> str:
    """Return a table for each evaluation, tasks by modes, with the command that made it."""
    if not evaluations:
        return "None were given."
    return "\n\n".join(_table(evaluation) for evaluation in evaluations)


def _table(evaluation: Run) -> str:
    scores = evaluation.scores
    modes = list(dict.fromkeys(mode for of_task in scores.values() for mode in of_task))
    rows = [
        " | ".join([task, *(f"{of_task[mode]:.4g}" if mode in of_task else "" for mode in modes)])
        for task, of_task in scores.items()
    ]
    table = [f"| | {' | '.join(modes)} |", "|---" * (len(modes) + 1) + "|", *(f"| {row} |" for row in rows)]
    command = ["", f"{evaluation.date}:", "```", evaluation.command, "```"] if evaluation.command else []
    return "\n".join([*table, *command])


def _limits(beacon: BeaconConfig, saved: Mapping[str, Any]) -> str:
    lines = ["- The beacons fit this backbone alone; another one, or a fine-tuned one, is refused by its fingerprint."]
    positions = saved["backbone"]["positions"]["max_position_embeddings"]
    reach = ", ".join(f"{longest(beacon, ratio, positions):,} at ratio {ratio}" for ratio in beacon.ratios)
    lines.append(f"- The longest texts, in tokens, that {positions:,} positions hold: {reach}.")
    lines.append("- Compression loses text: what was not kept cannot be quoted. Compare with `dense` on your own task.")
    return "\n".join(lines)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
