"""A task's table of methods, and what tells its configurations apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from fedtt_lightning.report.groups import Group, Task
from fedtt_lightning.report.run_folder import number
from fedtt_lightning.report.scores import Score, score_of
from fedtt_lightning.wording import human_bytes

_EPSILONS = ("dp/epsilon_max", "dp/central_epsilon_max")
_CLIENTS = {"client/global": "clients", "client/personal": "clients' own"}


@dataclass(frozen=True)
class Table:
    """A table of texts; `key` names its file."""

    key: str
    title: str
    header: list[str]
    rows: list[list[str]]


def method_numbers(group: Group, task: Task) -> dict[str, Any]:
    """Return the numbers of a line of the table; None where no run tells."""
    up, down, rounds = (
        group.mean_of(key) for key in ("upload_bytes_total", "download_bytes_total", "rounds")
    )
    total = None if up is None or down is None else up + down
    kinds = [f"{kind}_{what}" for kind in _CLIENTS for what in ("mean", "worst_decile")]
    metrics = [*task.metrics, *kinds, *_EPSILONS]
    return {
        "label": group.label,
        "runs": [run.name for run in group.runs],
        "finished": group.finished,
        "rounds": [run.rounds for run in group.runs],
        "trainable_parameters": group.mean_of("trainable_parameters"),
        "upload_bytes_per_client": group.mean_of("upload_bytes_per_client"),
        "bytes_per_round": None if total is None or not rounds else total / rounds,
        "bytes_total": total,
        "metrics": {name: _measured(group, name) for name in metrics if group.values(name)},
        "seconds": group.mean_of("seconds"),
        "resumed": any(number(run.summary.get("first_round"), 1) > 1 for run in group.runs),
    }


def method_table(lines: Sequence[dict[str, Any]], key: str) -> Table:
    """Return the table of methods, with the columns for which a run has numbers."""
    names = list(dict.fromkeys(name for line in lines for name in line["metrics"]))
    header = ["runs", "seeds", "rounds", "parameters", "an upload", "a round", "in all"]
    header += [_metric_head(name) for name in names] + ["seconds"]
    rows = []
    for line in lines:
        sizes = ("upload_bytes_per_client", "bytes_per_round", "bytes_total")
        parameters = line["trainable_parameters"]
        rows.append(
            [
                line["label"],
                str(len(line["runs"])),
                " to ".join(map(str, sorted({min(line["rounds"]), max(line["rounds"])}))),
                "" if parameters is None or not isfinite(parameters) else f"{parameters:,.0f}",
                *(_bytes(line[size]) for size in sizes),
                *(_words(line["metrics"].get(name), len(line["runs"])) for name in names),
                ("" if line["seconds"] is None else f"{line['seconds']:.1f}")
                + (" of the last start" if line["resumed"] else ""),
            ]
        )
    return Table(f"{key}methods", "Methods", header, rows)


def difference_table(task: Task, key: str) -> Table:
    """Return the keys in which the configurations of a task differ, by group.

    There are as many rows as the longer of both has: pages are higher than wide.
    """
    header = ["key", *(group.label for group in task.groups)]
    rows = [[name, *values] for name, values in task.differences().items()]
    if rows and len(rows) < len(header) - 1:
        header, *rows = map(list, zip(header, *rows, strict=True))
        header[0] = "runs"
    return Table(f"{key}differences", "Where the configurations differ", header, rows)


def _measured(group: Group, metric: str) -> dict[str, Any]:
    values = group.values(metric)
    score = score_of(values)
    return {"mean": score.mean, "sd": score.sd, "values": values}


def _metric_head(name: str) -> str:
    for kind, words in _CLIENTS.items():
        if name.startswith(kind):
            return words if name.endswith("_mean") else f"{words}, worst tenth"
    return {"dp/epsilon_max": "ε", "dp/central_epsilon_max": "central ε"}.get(name, name)


def _words(measured: dict[str, Any] | None, runs: int) -> str:
    if measured is None:
        return ""
    return Score(measured["mean"], measured["sd"], len(measured["values"])).words(runs)


def _bytes(count: float | None) -> str:
    return "" if count is None or not isfinite(count) else human_bytes(count)
