"""A report on runs, as a page, as numbers and as files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.report.charts import Chart, task_charts
from fedtt_lightning.report.groups import flatten, group_runs
from fedtt_lightning.report.run_folder import Run, read_runs
from fedtt_lightning.report.scores import Score
from fedtt_lightning.report.study_cells import read_cells
from fedtt_lightning.report.study_grid import study_grid
from fedtt_lightning.report.tables import Table, difference_table, method_numbers, method_table
from fedtt_lightning.wording import without_nan


class Report:
    """Shows runs side by side: scores against rounds and bytes, clients, privacy, configurations.

    In a notebook, `Report(["runs/a", "runs/b"])` as the last line of a cell shows itself. Runs of
    different tasks are kept apart; runs that differ in their seed only are averaged. The same
    folders give the same report.

    Args:
        folders: `trainer.default_root_dir` of runs, or folders with such folders in them; or one.

    Attributes:
        problems: what could not be read or counted, a line each.

    Raises:
        ConfigError: there is no run, or from `html` and `write_figures` no matplotlib.
    """

    def __init__(self, folders: str | Path | Sequence[str | Path]) -> None:
        named = [folders] if isinstance(folders, str | Path) else folders
        runs, self.problems = read_runs([Path(folder) for folder in named])
        read_cells(runs)
        self._tasks = group_runs(runs)
        self.problems += _told_once(runs)
        self._runs = [run for run in runs if not run.left_out]
        if not self._runs:
            raise ConfigError(f"no run is left to report: {'; '.join(self.problems[:3])}")
        self._grids = [study_grid(task) for task in self._tasks]
        self._charts: list[list[Chart]] = [
            [*(grid.charts(f"task{i}-") if grid else ()), *task_charts(task, i)]
            for i, (task, grid) in enumerate(zip(self._tasks, self._grids, strict=True), 1)
        ]
        self._lines = [[method_numbers(g, task) for g in task.groups] for task in self._tasks]

    @cached_property
    def html(self) -> str:
        """The page, complete in itself: it asks for no other file and runs no script."""
        from fedtt_lightning.report.drawing import draw_svg

        pictures = [[draw_svg(chart) for chart in charts] for charts in self._charts]
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup

        environment = Environment(autoescape=True, undefined=StrictUndefined)
        environment.filters["shown"] = _shown
        page = files("fedtt_lightning.report").joinpath("page.html").read_text(encoding="utf-8")
        tasks = [
            {
                "name": task.name,
                "tables": tables,
                "differences": differences,
                "charts": [*zip(charts, map(Markup, svgs), strict=True)],
            }
            for task, charts, svgs, (*tables, differences) in zip(
                self._tasks, self._charts, pictures, self._tables, strict=True
            )
        ]
        runs = [
            origin | {"config": flatten(run.config)}
            for origin, run in zip(self._origins, self._runs, strict=True)
        ]
        return environment.from_string(page).render(tasks=tasks, runs=runs, problems=self.problems)

    def _repr_html_(self) -> str:
        """Show the page in a frame of its own, so that its styles do not touch the notebook's."""
        frame = "width: 100%; height: 80vh; border: 0"
        return f'<iframe srcdoc="{escape(self.html)}" style="{frame}"></iframe>'

    def numbers(self) -> dict[str, Any]:
        """Return what the page shows as values that JSON can hold; None for NaN and infinity."""
        tasks = [
            {
                "task": task.name,
                "groups": lines,
                "differences": task.differences(),
                "charts": {
                    chart.key: {
                        "title": chart.title,
                        "header": chart.header(),
                        "rows": chart.rows(),
                    }
                    for chart in charts
                },
            }
            for task, lines, charts in zip(self._tasks, self._lines, self._charts, strict=True)
        ]
        return without_nan({"tasks": tasks, "runs": self._origins, "problems": self.problems})

    def write(self, path: str | Path) -> None:
        """Write the page."""
        _write(Path(path), self.html.encode())

    def write_figures(self, folder: str | Path) -> None:
        """Write each chart as SVG, PNG, PDF and CSV, and each table as CSV."""
        from fedtt_lightning.report.drawing import draw_file

        for charts, tables in zip(self._charts, self._tables, strict=True):
            for chart in charts:
                for kind in ("svg", "png", "pdf"):
                    _write(Path(folder) / f"{chart.key}.{kind}", draw_file(chart, kind))
                _write_csv(Path(folder) / f"{chart.key}.csv", chart.header(), chart.rows())
            for table in tables:
                _write_csv(Path(folder) / f"{table.key}.csv", table.header, table.rows)

    @property
    def _origins(self) -> list[dict[str, Any]]:
        groups = [group for task in self._tasks for group in task.groups]
        labels = {run.name: group.label for group in groups for run in group.runs}
        return [_origin(run, labels.get(run.name)) for run in self._runs]

    @property
    def _tables(self) -> list[list[Table]]:
        """By task: its study's grid, if there is one, its methods, and where they differ."""
        tasks = enumerate(zip(self._tasks, self._grids, self._lines, strict=True), 1)
        return [
            [
                *([grid.table(f"task{i}-")] if grid else []),
                method_table(lines, f"task{i}-"),
                difference_table(task, f"task{i}-"),
            ]
            for i, (task, grid, lines) in tasks
        ]


def _told_once(runs: Sequence[Run]) -> list[str]:
    """Return the runs' problems, each with the first run that has it and how many more have."""
    names: dict[str, list[str]] = {}
    for run in runs:
        for line in run.problems:
            names.setdefault(line, []).append(run.name)
    more = {line: f" and {len(of) - 1} more" if len(of) > 1 else "" for line, of in names.items()}
    return [f"{of[0]}{more[line]}: {line}" for line, of in names.items()]


def _origin(run: Run, group: str | None) -> dict[str, Any]:
    """Return by what a run was made, as far as its summary tells, and the group it is in."""
    versions = run.summary.get("versions")
    command = run.summary.get("command")
    return {
        "name": run.name,
        "group": group,
        "command": command if isinstance(command, str) else None,
        "versions": versions if isinstance(versions, dict) else {},
    }


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else Score(value).words()
    return "" if value is None else str(value)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    _write(path, text.getvalue().encode())


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a link stays one, and a device what it is."""
    real = Path(os.path.realpath(path))
    partial = real.with_name(f".{real.name}.partial")
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} cannot be written: it is there and no file: name another")
        real.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(real)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
