"""Runs that belong together: of one task, and of one configuration but for the seed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any

from fedtt_lightning.report.run_folder import Run, number
from fedtt_lightning.report.scores import Score, score_of
from fedtt_lightning.wording import shown_scores

_SEEDS = ("seed_everything", "federation.seed")
_PLACES = (  # where a run writes and what it shows, which does not change its outcome
    "trainer.default_root_dir",
    "trainer.logger",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "predictions",
    "ckpt_path",
)
Flat = dict[str, str]


@dataclass
class Group:
    """Runs of one configuration, each with a seed of its own.

    Attributes:
        label: its number in the task, and what tells it from the task's other groups: its choices
            in a study's grid, or else its method and settings.
        settings: its configuration by dotted keys, without seeds and places.
    """

    runs: list[Run]
    settings: Flat
    finished: bool
    label: str = ""

    @property
    def point(self) -> dict[str, str]:
        """Its choice on each axis of a study's grid; empty if it is of no study."""
        return self.runs[0].point

    @property
    def place(self) -> list[int]:
        """The numbers of these choices in the study; what it does not name comes last."""
        grid = self.runs[0].study.get("grid")
        axes = grid if isinstance(grid, dict) else {}
        known = [(axes.get(axis), choice) for axis, choice in self.point.items()]
        return [
            names.index(choice) if isinstance(names, list) and choice in names else 1000
            for names, choice in known
        ]

    def values(self, metric: str) -> list[float]:
        """Return the last value of a metric in each run that has it."""
        return [value for run in self.runs if (value := run.last(metric)) is not None]

    def mean_of(self, key: str) -> float | None:
        """Return the mean over runs of a number of `summary.json`, None if none has it."""
        found = [number(run.summary.get(key), nan) for run in self.runs if key in run.summary]
        return score_of(found).mean if found else None

    def series(self, metric: str) -> list[tuple[int, Score]]:
        """Return (round, score over seeds) of the rounds in which all runs have it.

        Runs without a log of it are left out; if none has one, what they ended with is left.
        """
        ends = [{run.rounds: value} for run in self.runs if (value := run.last(metric)) is not None]
        columns = [column for run in self.runs if (column := run.series.get(metric))] or ends
        if not columns:
            return []
        rounds = sorted(set(columns[0]).intersection(*columns[1:]))
        return [(r, score_of([column[r] for column in columns])) for r in rounds]


@dataclass
class Task:
    """Groups whose scores may be compared."""

    name: str
    groups: list[Group]
    metrics: list[str] = field(default_factory=list)

    def differences(self) -> dict[str, list[str]]:
        """Return the value in each group of each key in which groups differ; "" where absent."""
        keys = dict.fromkeys(key for group in self.groups for key in group.settings)
        rows = {key: [group.settings.get(key, "") for group in self.groups] for key in keys}
        return {key: row for key, row in rows.items() if len(set(row)) > 1}


def group_runs(runs: Iterable[Run]) -> list[Task]:
    """Return the tasks of some runs, each study's apart, in the order in which they come.

    Runs that repeat others are not counted, which is noted as their problem.
    """
    tasks: dict[str, Task] = {}
    groups: dict[str, Group] = {}
    seen: dict[str, Run] = {}
    for run in runs:
        if run.left_out:
            continue
        flat = {k: v for k, v in flatten(run.config).items() if not _below(k, _PLACES)}
        place = [str(run.study_folder), run.point]
        whole = json.dumps([place, flat], sort_keys=True)
        if run.config and (first := seen.setdefault(whole, run)) is not run:
            run.problems.append(f"the same configuration and seed as {first.name}: not counted")
            continue
        settings = {key: value for key, value in flat.items() if not _below(key, _SEEDS)}
        finished = bool(run.summary)
        told: object = settings if run.config else str(run.folder)
        if isinstance(run.study.get("cells"), dict):
            told = None  # a point has one configuration, though its folders may have moved
        # Those that ended may have done so early; of the others only like numbers are averaged.
        same = json.dumps([place, told, finished or run.rounds], sort_keys=True)
        if same not in groups:
            groups[same] = Group([], settings, finished)
            name = _task_name(run)
            tasks.setdefault(f"{run.study_folder} {name}", Task(name, [])).groups.append(
                groups[same]
            )
        groups[same].runs.append(run)
    return [*map(_labelled, tasks.values())]


def flatten(value: object, prefix: str = "") -> Flat:
    """Return a configuration by dotted keys; callbacks and the like by the names of their class."""
    if isinstance(value, dict) and "class_path" in value:
        return {prefix: _class_name(value), **_items(value.get("init_args"), prefix)}
    if isinstance(value, dict):
        return _items(value, prefix)
    if isinstance(value, list) and value and all(_is_class(part) for part in value):
        parts = [flatten(part, f"{prefix}.{_class_name(part)}") for part in value]
        return {key: text for part in parts for key, text in part.items()}
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return {prefix: text}


def _items(value: object, prefix: str) -> Flat:
    flat: Flat = {}
    # Of a file that was cut short it may be half a word.
    for key, part in value.items() if isinstance(value, dict) else ():
        flat |= flatten(part, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _is_class(value: object) -> bool:
    return isinstance(value, dict) and "class_path" in value


def _class_name(value: Mapping[str, Any]) -> str:
    return str(value["class_path"]).rpartition(".")[2]


def _below(key: str, places: tuple[str, ...]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _task_name(run: Run) -> str:
    """Name what is learned: the data's class and its texts, which name tasks, files and folders.

    Where runs of other folders are reported too, the study's comes first.
    """
    study = os.path.dirname(os.path.dirname(run.name)) if run.study_folder else ""
    start = f"{study}: " if study else ""
    data = run.config.get("data")
    if not isinstance(data, dict) or "class_path" not in data:
        return f"{start}unknown task ({', '.join(sorted(_scores(run))) or 'no score'})"
    args = data.get("init_args")
    texts = {
        key: _still(value, run.moving)
        for key, value in (args if isinstance(args, dict) else {}).items()
        if isinstance(value, str) and key != "tokenizer"
    }
    named = "".join(f", {key}: {value}" for key, value in texts.items())
    return f"{start}{_class_name(data)}{named}"


def _still(text: str, moving: Mapping[str, str]) -> str:
    """Put a folder's name for the folder with which a path begins, if that may move."""
    for name, folder in moving.items():
        if text == folder or text.startswith(f"{folder}/"):
            return f"{{{name}}}{text[len(folder) :]}"
    return text


def _scores(run: Run) -> list[str]:
    metrics = run.summary.get("metrics")
    return shown_scores({**(metrics if isinstance(metrics, dict) else {}), **run.series})


def _labelled(task: Task) -> Task:
    scores = [score for group in task.groups for run in group.runs for score in _scores(run)]
    chosen = [str(run.study.get("metric")) for group in task.groups for run in group.runs]
    shown = [name for name in chosen if any(group.values(name) for group in task.groups)]
    task.metrics = list(dict.fromkeys([*shown, *scores]))
    task.groups.sort(key=lambda group: group.place)
    rows = task.differences()
    methods = [str(g.runs[0].summary.get("method") or g.runs[0].name) for g in task.groups]
    for index, (group, method) in enumerate(zip(task.groups, methods, strict=True)):
        same = [other for other, name in enumerate(methods) if name == method]
        names = [(key.rpartition(".")[2], row) for key, row in rows.items()]
        told = [
            row[index] if name == row[index] else f"{name} {row[index]}"
            for name, row in names
            if row[index] and len({row[other] for other in same}) > 1
        ]
        rounds = group.runs[0].rounds
        state = [] if group.finished else [f"unfinished: {rounds} round{'s' * (rounds != 1)}"]
        if group.point:
            label = ", ".join([*choice_words(group.point), *state])
        else:
            label = ", ".join([method, *state, *told[:3]])
        group.label = f"{index + 1} {label[:80]}"
    return task


def choice_words(point: Mapping[str, str]) -> list[str]:
    """Return choices as people read them: numbers, true, null and lists go with their axis."""
    return [
        f"{axis.rpartition('.')[2]} {choice}" if _is_value(choice) else choice
        for axis, choice in point.items()
    ]


def _is_value(choice: str) -> bool:
    try:
        return not isinstance(json.loads(choice), str)
    except (ValueError, RecursionError):
        return False
