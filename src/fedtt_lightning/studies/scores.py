"""The metric of a study in its cells, some of which may not report it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedtt_lightning.cli_classes import nearest
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.cells import Cell


def score(summary: Mapping[str, Any], metric: str) -> float | None:
    """Return a run's metric, None if it does not report this one."""
    value = summary["metrics"].get(metric)
    return None if value is None else float(value)


def without_metric(cells: Iterable[Cell], metric: str) -> list[tuple[Cell, str]]:
    """Return the finished cells that do not report the metric, each with what it reports.

    Raises:
        ConfigError: none of those that have finished reports it.
    """
    finished = [(cell, record["summary"]) for cell in cells if (record := cell.finished())]
    missing = [(cell, summary) for cell, summary in finished if score(summary, metric) is None]
    if missing and len(missing) == len(finished):
        cell, summary = missing[0]
        raise ConfigError(
            f"metric is {metric!r}, but {cell.name} reports {_listed(summary)}"
            f"{nearest(metric, summary['metrics'])}: name one of them, or change what keeps it "
            "from this cell; finished cells are kept"
        )
    return [(cell, f"it reports no {metric}, but {_listed(s)}") for cell, s in missing]


def _listed(summary: Mapping[str, Any]) -> str:
    return ", ".join(sorted(summary["metrics"])) or "nothing"
