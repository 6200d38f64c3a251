"""A study's table: each point of the grid with its metric over seeds, parameters and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from fedtt_lightning.callbacks.csv_file import write_csv
from fedtt_lightning.studies.cells import Cell
from fedtt_lightning.studies.scores import score
from fedtt_lightning.studies.study_file import Study, process_name
from fedtt_lightning.wording import human_bytes, spread

_COUNTS = (
    "trainable_parameters",
    "upload_bytes_per_client",
    "upload_bytes_total",
    "download_bytes_total",
)


def study_results(study: Study, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return a row for each point of the grid, in its order, from the cells that have finished.

    A row holds `point`, `scores` (by seed), `mean` and `sd` (of the sample; None for one seed, NaN
    if a score is NaN), and means over seeds of `trainable_parameters`, `upload_bytes_per_client`
    (of a visit), `upload_bytes_total`, `download_bytes_total` (of the run) and `seconds`; None
    where no seed has finished. Cells that do not report the metric are left out.
    """
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.point.values()), []).append(cell)
    return [_row(study.metric, group) for group in groups.values()]


def _row(metric: str, cells: Sequence[Cell]) -> dict[str, Any]:
    records = {cell.seed: record for cell in cells if (record := cell.finished()) is not None}
    found = {seed: score(record["summary"], metric) for seed, record in records.items()}
    scores = {seed: value for seed, value in found.items() if value is not None}
    kept = [records[seed] for seed in scores]
    mean, sd = spread([*scores.values()]) if scores else (None, None)
    return {
        "point": cells[0].point,
        "scores": scores,
        "mean": mean,
        "sd": sd,
        **{key: _mean([record["summary"][key] for record in kept]) for key in _COUNTS},
        "seconds": _mean([record["seconds"] for record in kept]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return spread(values)[0] if values else None


def write_results(study: Study, rows: Sequence[dict[str, Any]]) -> None:
    """Write `results.csv` in the study's folder: the rows, without the scores of single seeds."""
    columns = ("mean", "sd", *_COUNTS, "seconds")
    header = (*study.grid, "seeds", *columns)
    lines = [
        (*row["point"].values(), len(row["scores"]), *(row[column] for column in columns))
        for row in rows
    ]
    # Processes with shares of one study may come here at the same time.
    own = study.folder / f".results.{process_name()}.csv"
    write_csv(own, header, lines)
    own.replace(study.folder / "results.csv")


def results_table(study: Study, rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table to print."""
    # Text, since Rich would read a name in brackets as markup.
    table = Table(title=Text(f"{study.metric}: mean ± standard deviation over seeds"))
    for axis in study.grid:
        table.add_column(Text(axis.rpartition(".")[2]))
    for column in (study.metric, "seeds", "trainable", "an upload", "total up", "total down"):
        table.add_column(Text(column), justify="right")
    for row in rows:
        deviation = "" if row["sd"] is None else f" ± {row['sd']:.3f}"
        mean = "–" if row["mean"] is None else f"{row['mean']:.3f}{deviation}"
        parameters = row["trainable_parameters"]
        table.add_row(
            *map(Text, row["point"].values()),
            mean,
            f"{len(row['scores'])}/{len(study.seeds)}",
            "–" if parameters is None else f"{parameters:,.0f}",
            *("–" if row[key] is None else human_bytes(row[key]) for key in _COUNTS[1:]),
        )
    return table
