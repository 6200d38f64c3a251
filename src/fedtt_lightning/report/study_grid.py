"""A study by its axes: a table of means, and charts of the metric along the longest axis."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import isfinite

from fedtt_lightning.report.charts import Dots, Lines
from fedtt_lightning.report.groups import Group, Task, choice_words, spread
from fedtt_lightning.report.tables import Table, score_words

_Dot = tuple[str, float, float]  # a choice, the mean, and the standard deviation over seeds


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

    def _at(self, point: dict[str, str]) -> list[float]:
        group = self.groups.get(tuple(point[axis] for axis in self.axes))
        return [] if group is None else group.values(self.metric)

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
                rows.append([*point.values(), *(self._words(values) for values in cells)])
        names = [axis.rpartition(".")[2] for axis in (*apart, *along)]
        heads = [", ".join(choice_words(column)) or self.metric for column in columns]
        title = f"{self.metric} by {_listed([*self.axes])}"
        return Table(f"{key}grid", title, [*names, *heads], rows)

    def _words(self, values: list[float]) -> str:
        if not values:
            return ""
        mean, sd = spread(values)
        most = max(len(group.runs) for group in self.groups.values())
        fewer = "" if len(values) == most else f" ({len(values)}/{most})"
        return score_words(mean, sd if len(values) > 1 else None) + fewer

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
            if None in numbers:
                charts.append(Dots(*said, self.axes[axis], series, self._limits))
            else:
                curves = [
                    (colour, label, sorted((float(x), y, sd) for x, y, sd in dots))
                    for colour, label, dots in series
                ]
                ticks = [x for x in numbers if x is not None]
                charts.append(Lines(*said, curves, ticks=ticks, limits=self._limits))
        return charts

    def _series(self, panel: dict[str, str]) -> list[tuple[int, str, list[_Dot]]]:
        """Return for each colour its number, its name and its means along."""
        _, colours, (axis,) = self._order
        series = []
        for index, column in enumerate(self._points(colours)):
            values = [self._at({**panel, **column, axis: choice}) for choice in self.axes[axis]]
            dots = [(c, *spread(v)) for c, v in zip(self.axes[axis], values, strict=True) if v]
            if dots:
                series.append((index, ", ".join(choice_words(column)) or self.metric, dots))
        return series

    @property
    def _limits(self) -> tuple[float, float] | None:
        spreads = [spread(v) for g in self.groups.values() if (v := g.values(self.metric))]
        ends = [mean + sign * sd for mean, sd in spreads for sign in (-1, 1) if isfinite(mean + sd)]
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
