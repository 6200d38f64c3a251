"""What the folder of a run holds: read as far as it can be, with a line on what cannot."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any

import yaml

from fedtt_lightning.errors import ConfigError

_SIGNS = ("summary.json", "config.yaml", "metrics.csv", "cell.json")
Row = dict[str, str]


@dataclass
class Run:
    """One run, as its files tell it.

    Attributes:
        name: its folder, as short as tells it from the other runs'.
        summary: what `summary.json` says; empty if the run did not end.
        config: the configuration with all defaults; empty if there is none.
        series: values by metric and round, rounds from 1; NaN where a NaN was logged.
        tables: the rows of partition.csv, clients.csv and participation.csv, by those names.
        point: its choice on each axis of a study's grid; empty if it is of no study.
        study_folder: of the study of which it is a cell, None if it is of none.
        study: what the study's `study.json` says: `metric`, `grid` in order, the `cells`' keys.
        moving: folders of the cell that others of its study may have elsewhere, by name.
        left_out: whether it is a cell that does not count, for a reason which is its one problem.
        problems: what could not be read, a line each.
    """

    name: str
    folder: Path
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    series: dict[str, dict[int, float]] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    point: dict[str, str] = field(default_factory=dict)
    study_folder: Path | None = None
    study: dict[str, Any] = field(default_factory=dict)
    moving: dict[str, str] = field(default_factory=dict)
    left_out: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """How many rounds it has numbers of."""
        ends = [max(values) for values in self.series.values() if values]
        return max(ends, default=0) or int(number(self.summary.get("rounds"), 0))

    def last(self, metric: str) -> float | None:
        """Return the last value of a metric, None if there is none."""
        if values := self.series.get(metric):
            return values[max(values)]
        metrics = self.summary.get("metrics")
        value = metrics.get(metric) if isinstance(metrics, dict) else None
        return None if value is None else number(value, nan)


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Return the runs in and below some folders, and a line for each folder without any.

    Raises:
        ConfigError: there is none at all.
    """
    found: dict[Path, None] = {}
    problems = []
    for folder in folders:
        paths = _run_folders(folder)
        if not paths:
            what = "holds no run" if folder.is_dir() else "is no folder"
            problems.append(f"{printable(str(folder))} {what}")
        found |= dict.fromkeys(path.resolve() for path in paths)
    if not found:
        raise ConfigError(
            f"{'; '.join(problems[:3]) or 'no folder is given'}: name trainer.default_root_dir of "
            "a fit, or a folder of several"
        )
    common = os.path.commonpath([path.parent for path in found])
    return [_read(path, printable(os.path.relpath(path, common))) for path in found], problems


def number(value: object, otherwise: float) -> float:
    """Return a value from a file as a number, and `otherwise` where it is none."""
    return float(value) if isinstance(value, int | float | str) and _is_float(value) else otherwise


def printable(value: Any) -> Any:
    """Return a text, or a value made of texts, without what cannot be shown, such as escapes."""
    if isinstance(value, dict):
        return {printable(key): printable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [printable(part) for part in value]
    if not isinstance(value, str) or value.isprintable():
        return value
    spaced = (" " if character.isspace() else character for character in value)
    return "".join(character if character.isprintable() else "\ufffd" for character in spaced)


def _is_float(value: float | str) -> bool:
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True


def _run_folders(folder: Path) -> list[Path]:
    found = []
    for path, below, files in os.walk(folder):
        logs = _versions(Path(path))
        if logs or any(sign in files for sign in _SIGNS):
            found.append(Path(path))
        if any(sign in files for sign in _SIGNS):
            below.clear()
        # Beside logs of a run that left nothing else there may be folders of others.
        below[:] = sorted({*below} - {log.relative_to(path).parts[0] for log in logs})
    return found


def _holds_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*_SIGNS, "partition.csv"))


def _versions(folder: Path) -> list[Path]:
    """Return the folders of Lightning's loggers in a run's, one for each start, oldest first.

    They are in a folder with the logger's name, which holds nothing of a run, or in the run's own.
    """
    named = [path for path in folder.glob("*/version_*") if not _holds_run(path.parent)]
    own = [path for path in folder.glob("version_*") if not (path / "summary.json").is_file()]
    paths = [path for path in (*named, *own) if path.name[8:].isdecimal()]
    return sorted(paths, key=lambda path: (path.parent, int(path.name[8:])))


def _evaluates(log: Path) -> bool:
    """Tell whether a log is of `validate`, `test` or `predict`: by arguments that `fit` has not."""
    try:
        config = (log / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(r"^(verbose|return_predictions):", config, re.MULTILINE) is not None


def _read(folder: Path, name: str) -> Run:
    run = Run(name, folder)
    logs = [path for path in (*_versions(folder), folder) if not _evaluates(path)]
    run.summary = read_mapping(run, folder / "summary.json", json.loads)
    if configs := [path / "config.yaml" for path in logs if (path / "config.yaml").is_file()]:
        run.config = read_mapping(run, configs[-1], yaml.safe_load)
    else:
        run.problems.append("no config.yaml: it is told from other runs by its folder only")
    for rows in reversed([_rows(run, path / "metrics.csv") for path in logs]):
        _add_earlier(run, rows)
    if not run.series:
        run.problems.append(
            "no rounds in metrics.csv: name CSVLogger in trainer.logger, beside others, or wait "
            "for the first one"
        )
    for table in ("partition", "clients", "participation"):
        if rows := _rows(run, folder / f"{table}.csv"):
            run.tables[table] = rows
    _check_counts(run)
    if not run.summary:
        run.problems.append("no summary.json: it has not ended, or had no RoundReport")
    elif run.series and run.rounds - number(run.summary.get("rounds"), 0) not in (0, 1):
        # One round more is in metrics.csv where a run stopped inside it.
        run.problems.append(
            f"summary.json is of {run.summary.get('rounds')} rounds, but metrics.csv of "
            f"{run.rounds}: the folder was used again, so summary.json is left out"
        )
        run.summary = {}
    broken = [
        name for name, values in run.series.items() if not all(map(isfinite, values.values()))
    ]
    if broken:
        run.problems.append(f"NaN or infinite in some rounds: {', '.join(sorted(broken))}")
    return run


def _check_counts(run: Run) -> None:
    odd = 0
    for row in run.tables.get("partition", ()):
        for label in row.keys() - {"client"}:
            if not 0 <= number(row[label], -1) < 2**53:  # nor is NaN
                row[label] = "0"
                odd += 1
    if odd:
        run.problems.append(f"partition.csv: {odd} cells are no numbers of examples: shown as 0")


def _add_earlier(run: Run, rows: Iterable[Row]) -> None:
    """Add the rounds of an earlier start that are before those known: a resumed run has both."""
    first = min((min(values) for values in run.series.values() if values), default=None)
    for row in rows:
        epoch = row.get("epoch") or ""
        if not epoch.isdecimal() or (first is not None and int(epoch) + 1 >= first):
            continue
        for metric, text in row.items():
            if text and metric not in ("epoch", "step") and _is_float(text):
                run.series.setdefault(metric, {})[int(epoch) + 1] = float(text)


def read_mapping(run: Run, path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Return what a file says, nothing if there is none; notes one that cannot be read."""
    if not path.is_file():
        return {}
    try:
        value = printable(parse(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        run.problems.append(f"{path.name} cannot be read: {printable(str(error))[:120]}")
        return {}
    if not isinstance(value, dict):
        run.problems.append(f"{path.name} cannot be read: it is no mapping")
        return {}
    return value


def _rows(run: Run, path: Path) -> list[Row]:
    """Return the complete rows of a table; none if there is no file."""
    if not path.is_file():
        return []
    try:
        # What follows the last line's end is of a line that was not yet written to its own.
        text, _, rest = path.read_bytes().decode().rpartition("\n")
        rows = [printable(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    except (OSError, ValueError, csv.Error) as error:
        run.problems.append(f"{path.name} cannot be read: {printable(str(error))[:120]}")
        return []
    whole = [row for row in rows if None not in row and None not in row.values()]
    if cut := len(rows) - len(whole) + bool(rest):
        run.problems.append(f"{path.name}: {cut} rows are cut short: left out")
    return whole
