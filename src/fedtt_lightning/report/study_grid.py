"""A study by its axes: a table of means, and charts of the metric along the longest axis."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import isfinite
from typing import Any

from fedtt_lightning.report.charts import Dots, Lines
from fedtt_lightning.report.groups import Group, Task, choice_words
from fedtt_lightning.report.scores import Score, score_of, seeds_note
from fedtt_lightning.report.tables import Table

_Dot = tuple[str, Score]  # a choice and its score


@dataclass(frozen=True)
class StudyGrid:
    """Finished groups of a task by their place in a study's grid.

    The axis with most choices (of several, the last) goes down the table and along the charts, the
    next makes columns and colours, and each combination of the others has rows and a chart.

    Attributes:
        axes: the axes on which the groups differ, with their choices in the study's order.
        groups: by their choices on these axes.
        metric: what is compared, after the last round.
    """

    axes: dict[str, list[str]]
    groups: dict[tuple[str, ...], Group]
    metric: str

    @property
    def _order(self) -> tuple[list[str], list[str], list[str]]:
        """The axes apart, of colours (one or none) and along (one)."""
        axes = sorted(self.axes, key=lambda axis: len(self.axes[axis]))
        apart = [axis for axis in self.axes if axis not in axes[-2:]]
        return apart, axes[-2:-1], axes[-1:]

    def _at(self, point: dict[str, str]) -> Score | None:
        group = self.groups.get(tuple(point[axis] for axis in self.axes))
        values = group.values(self.metric) if group is not None else []
        return score_of(values) if values else None

    @property
    def _seeds(self) -> int:
        """The most that a group has."""
        return max(len(group.runs) for group in self.groups.values())

    def _points(self, axes: list[str]) -> list[dict[str, str]]:
        choices = product(*(self.axes[axis] for axis in axes))
        return [dict(zip(axes, names, strict=True)) for names in choices]

    def table(self, key: str) -> Table:
        """Return the means, a row for each choice along and a column for each colour."""
        apart, colours, along = self._order
        columns = self._points(colours)
        rows = []
        for point in self._points([*apart, *along]):
            cells = [self._at(point | column) for column in columns]
            if any(cells):
                words = [cell.words(self._seeds) if cell else "" for cell in cells]
                rows.append([*point.values(), *words])
        names = [axis.rpartition(".")[2] for axis in (*apart, *along)]
        heads = [", ".join(choice_words(column)) or self.metric for column in columns]
        title = f"{self.metric} by {_listed([*self.axes])}"
        return Table(f"{key}grid", title, [*names, *heads], rows)

    def charts(self, key: str) -> list[Dots | Lines]:
        """Return a chart for each combination of the axes apart, all of one scale."""
        apart, colours, (axis,) = self._order
        numbers = [*map(_as_number, self.axes[axis])]
        charts: list[Dots | Lines] = []
        for index, panel in enumerate(self._points(apart), 1):
            series = self._series(panel)
            where = "".join(f", {words}" for words in choice_words(panel))
            title = f"{self.metric} by {_listed([*colours, axis])}{where}"
            said = (f"{key}grid{index}", title, axis.rpartition(".")[2], self.metric)
            if not series:
                continue
            note = seeds_note((score for *_, dots in series for _, score in dots), self._seeds)
            shown: Any = {"limits": self._limits, "note": note, "seeds": self._seeds}
            if None in numbers:
                charts.append(Dots(*said, self.axes[axis], series, **shown))
            else:
                curves = [
                    (colour, label, sorted((float(x), score) for x, score in dots))
                    for colour, label, dots in series
                ]
                ticks = [x for x in numbers if x is not None]
                charts.append(Lines(*said, curves, ticks=ticks, **shown))
        return charts

    def _series(self, panel: dict[str, str]) -> list[tuple[int, str, list[_Dot]]]:
        """Return for each colour its number, its name and its means along."""
        _, colours, (axis,) = self._order
        series = []
        for index, column in enumerate(self._points(colours)):
            scores = [(c, self._at({**panel, **column, axis: c})) for c in self.axes[axis]]
            dots = [(choice, score) for choice, score in scores if score]
            if dots:
                series.append((index, ", ".join(choice_words(column)) or self.metric, dots))
        return series

    @property
    def _limits(self) -> tuple[float, float] | None:
        scores = [score_of(v) for g in self.groups.values() if (v := g.values(self.metric))]
        ends = [mean + sign * (sd or 0.0) for mean, sd, _ in scores for sign in (-1, 1)]
        ends = [end for end in ends if isfinite(end)]
        margin = 0.05 * (max(ends) - min(ends)) if ends else 0.0
        return (min(ends) - margin, max(ends) + margin) if margin else None


def study_grid(task: Task) -> StudyGrid | None:
    """Return the grid in which a task's groups lie, None if they do not, or are one or alike."""
    groups = [group for group in task.groups if group.finished]
    names = {tuple(group.point) for group in groups}
    if len(groups) < 2 or len(names) != 1 or not task.metrics:
        return None
    axes = {}
    for i, axis in enumerate(groups[0].point):
        ordered = sorted(groups, key=lambda group: group.place[i])
        choices = list(dict.fromkeys(group.point[axis] for group in ordered))
        if len(choices) > 1:
            axes[axis] = choices
    places = {tuple(group.point[axis] for axis in axes): group for group in groups}
    # Two groups at one place are of studies that differ in more than their axes.
    return StudyGrid(axes, places, task.metrics[0]) if len(places) == len(groups) else None


def _as_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None


def _listed(axes: list[str]) -> str:
    *first, last = [axis.rpartition(".")[2] for axis in axes]
    return f"{', '.join(first)} and {last}" if first else last
