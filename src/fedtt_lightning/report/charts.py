"""The charts of a task: which numbers they show, as curves and as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import numpy as np

from fedtt_lightning.report.groups import Group, Task
from fedtt_lightning.report.run_folder import Row, number
from fedtt_lightning.report.scores import Score, seeds_note
from fedtt_lightning.wording import human_bytes

_DRAWN_GROUPS = 24  # lines that a chart can hold; the tables have all
_POINTS = 101  # of a line over clients
_DRAWN_CLIENTS, _DRAWN_LABELS = 100, 40  # of a heat map
Points = list[tuple[float, Score]]  # x and y


@dataclass(frozen=True)
class Lines:
    """A chart of a line for each group; `curves` holds (index of the group, its label, points)."""

    key: str
    title: str
    x_label: str
    y_label: str
    curves: list[tuple[int, str, Points]]
    in_bytes: bool = False  # what x is, on a logarithmic axis
    note: str = ""
    ticks: Sequence[float] = ()  # the values of x, where they are chosen ones
    limits: tuple[float, float] | None = None  # of y
    seeds: int = 1  # the most that a point has

    def header(self) -> list[str]:
        return ["runs", self.x_label, self.y_label, "± over seeds", "seeds"]

    def rows(self) -> list[list[Any]]:
        return [[label, x, *score] for _, label, points in self.curves for x, score in points]

    def drawn(self) -> Iterator[tuple[int, str, Points, list[str]]]:
        """Give the curves to draw, without what is not finite, and the words at each point."""
        for index, label, points in self.curves[:_DRAWN_GROUPS]:
            kept = [(x, score) for x, score in points if isfinite(x) and isfinite(score.mean)]
            if self.in_bytes:
                kept = [point for point in kept if point[0] > 0]
            tips = [
                f"{label}\n{self.x_label} {human_bytes(x) if self.in_bytes else f'{x:g}'}, "
                f"{self.y_label} {score.words(self.seeds)}"
                for x, score in kept
            ]
            if kept:
                yield index, label, kept, tips


@dataclass(frozen=True)
class Dots:
    """A chart of dots with whiskers, beside the names of choices; `series` is as `curves` is."""

    key: str
    title: str
    axis: str
    score: str
    choices: list[str]
    series: list[tuple[int, str, list[tuple[str, Score]]]]
    limits: tuple[float, float] | None = None
    note: str = ""
    seeds: int = 1

    def header(self) -> list[str]:
        return ["runs", self.axis, self.score, "± over seeds", "seeds"]

    def rows(self) -> list[list[Any]]:
        return [[label, name, *score] for _, label, dots in self.series for name, score in dots]

    def drawn(self) -> Iterator[tuple[int, str, list[tuple[int, Score]], list[str]]]:
        """Give the series to draw, with numbers of choices, and the words at each dot."""
        for index, label, dots in self.series:
            kept = [(choice, score) for choice, score in dots if isfinite(score.mean)]
            tips = [
                f"{label}\n{self.axis} {choice}, {self.score} {score.words(self.seeds)}"
                for choice, score in kept
            ]
            if kept:
                places = [(self.choices.index(choice), score) for choice, score in kept]
                yield index, label, places, tips


@dataclass(frozen=True)
class HeatMap:
    """How many examples of each label a client holds; `counts` is int64 [clients, labels]."""

    key: str
    title: str
    clients: list[str]
    labels: list[str]
    counts: np.ndarray
    note: str = ""

    def header(self) -> list[str]:
        return ["client", *self.labels]

    def rows(self) -> list[list[Any]]:
        numbers = self.counts.tolist()
        return [[name, *row] for name, row in zip(self.clients, numbers, strict=True)]

    def drawn(self) -> tuple[np.ndarray, list[str]]:
        """Return the counts to draw, and the words at each of them, client by client."""
        counts = self.counts[:_DRAWN_CLIENTS, :_DRAWN_LABELS]
        tips = [
            f"client {client}, {label}\n{count} examples"
            for client, row in zip(self.clients[:_DRAWN_CLIENTS], counts.tolist(), strict=True)
            for label, count in zip(self.labels[:_DRAWN_LABELS], row, strict=True)
        ]
        return counts, tips


Chart = Lines | Dots | HeatMap


def task_charts(task: Task, number_of_task: int) -> list[Chart]:
    """Return the charts for which the runs of a task hold numbers."""
    score = next(iter(task.metrics), "val_loss")
    start = f"task{number_of_task}-"
    charts = [
        _rounds(task, f"{start}score-rounds", f"{score} against rounds", score),
        _bytes(task, f"{start}score-bytes", score),
        _clients(task, f"{start}clients"),
        _rounds(task, f"{start}drift", "How much the clients pull the same way", "fed/drift"),
        _participation(task, f"{start}participation"),
        _rounds(task, f"{start}epsilon", "Privacy spent: ε against rounds", "dp/epsilon_max"),
        _rounds(
            task,
            f"{start}central-epsilon",
            "Privacy spent beside local DP: central ε against rounds",
            "dp/central_epsilon_max",
        ),
    ]
    return [*(chart for chart in charts if any(chart.drawn())), *_heat_maps(task, start)]


def _lines(task: Task, points: Callable[[Group], Points]) -> list[tuple[int, str, Points]]:
    curves = [(index, group.label, points(group)) for index, group in enumerate(task.groups)]
    return [curve for curve in curves if curve[2]]


def _seeds(task: Task) -> int:
    return max(len(group.runs) for group in task.groups)


def _note(curves: list[tuple[int, str, Points]], seeds: int = 1) -> str:
    notes = [seeds_note((score for *_, points in curves for _, score in points), seeds)]
    if len(curves) > _DRAWN_GROUPS:
        notes.append(f"The first {_DRAWN_GROUPS} of {len(curves)} are drawn.")
    if any(not isfinite(score.mean) for *_, points in curves for _, score in points):
        notes.append("Values that are not finite are left out of the lines.")
    return " ".join(filter(None, notes))


def _rounds(task: Task, key: str, title: str, metric: str) -> Lines:
    curves = _lines(task, lambda group: [(float(r), y) for r, y in group.series(metric)])
    if len({x for *_, points in curves for x, _ in points}) == 1:
        curves = []  # marks above each other say no more than the table
    seeds = _seeds(task)
    return Lines(key, title, "round", metric, curves, note=_note(curves, seeds), seeds=seeds)


def _bytes(task: Task, key: str, score: str) -> Lines:
    def points(group: Group) -> Points:
        ways = ("comm/upload_bytes_total", "comm/download_bytes_total")
        up, down = ({r: total.mean for r, total in group.series(way)} for way in ways)
        return [(up[r] + down[r], y) for r, y in group.series(score) if r in up and r in down]

    curves = _lines(task, points)
    title = f"{score} against bytes up and down, of all clients"
    seeds = _seeds(task)
    note = _note(curves, seeds)
    return Lines(key, title, "bytes", score, curves, in_bytes=True, note=note, seeds=seeds)


def _clients(task: Task, key: str) -> Lines:
    """Each run's clients from the worst to the best: the first of a group's runs that has them."""

    def points(group: Group) -> Points:
        rows = _table(group, "clients")
        kind = "personal" if rows and "personal" in rows[0] else "global"
        scores = np.sort([number(row.get(kind), nan) for row in rows])
        return _over_clients(scores)

    curves = _lines(task, points)
    title = "Clients from the worst to the best served, on their own held-out examples"
    return Lines(key, title, "% of clients", "score", curves, note=_note(curves))


def _participation(task: Task, key: str) -> Lines:
    def points(group: Group) -> Points:
        visits = [number(row.get("visits"), nan) for row in _table(group, "participation")]
        times = Counter(v for v in visits if isfinite(v))
        return [(v, Score(100 * times[v] / len(visits))) for v in sorted(times)]

    curves = _lines(task, points)
    title = "How often clients took part"
    return Lines(key, title, "visits", "% of clients", curves, note=_note(curves))


def _over_clients(scores: np.ndarray) -> Points:
    if not len(scores):
        return []
    picks = np.unique(np.linspace(0, len(scores) - 1, min(len(scores), _POINTS)).round())
    return [(100 * (i + 1) / len(scores), Score(float(scores[int(i)]))) for i in picks]


def _heat_maps(task: Task, start: str) -> list[Chart]:
    """Return a map for each division of the data that differs: of several seeds, the first's."""
    maps: dict[bytes, tuple[HeatMap, list[str]]] = {}
    for group in task.groups:
        rows = _table(group, "partition")
        labels = [name for name in (rows[0] if rows else {}) if name not in ("client", "examples")]
        if not labels:
            continue
        counts = np.array([[int(float(row[name])) for name in labels] for row in rows])
        clients = [row.get("client", "") for row in rows]
        drawn = len(clients) <= _DRAWN_CLIENTS and len(labels) <= _DRAWN_LABELS
        note = "" if drawn else f"The first of {len(clients)} clients × {len(labels)} labels."
        key = f"{start}partition{len(maps) + 1}"
        new = HeatMap(key, "Examples of each label a client trains on", clients, labels, counts)
        maps.setdefault(counts.tobytes(), (new, [note]))[1].append(group.label)
    return [
        HeatMap(m.key, m.title, m.clients, m.labels, m.counts, f"{note} Of {_names(names)}")
        for m, (note, *names) in maps.values()
    ]


def _names(labels: Iterable[str]) -> str:
    first, *rest = labels
    return f"{first} and {len(rest)} more." if rest else f"{first}."


def _table(group: Group, name: str) -> list[Row]:
    """Return the rows of the group's first run that has such a table."""
    return next((run.tables[name] for run in group.runs if name in run.tables), [])
