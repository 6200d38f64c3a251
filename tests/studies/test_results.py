"""What a study tells of its cells: of records that cells have left, so that none is run here."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest

from fedtt_lightning.__main__ import main
from fedtt_lightning.studies.cells import cells_of
from fedtt_lightning.studies.runner import StudyRunner
from fedtt_lightning.studies.study_file import read_study
from studies.study_files import said, write

NUMBERS = {
    "trainable_parameters": 100,
    "upload_bytes_per_client": 400.0,
    "upload_bytes_total": 1600,
    "download_bytes_total": 1600,
}


def finished(folder: Path, metrics: Iterable[dict[str, float]], **changes: Any) -> list[str]:
    """Return the command of a study whose cells have reported these metrics."""
    path = write(folder, said(folder, **changes))
    for cell, values in zip(cells_of(read_study(path)), metrics, strict=True):
        cell.write(1.0, summary={**NUMBERS, "metrics": values})
    return ["study", "--config", path]


def scores(*values: float) -> list[dict[str, float]]:
    return [{"val_acc": value, "val_loss": 1.0} for value in values]


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_nan_of_a_seed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = finished(tmp_path, scores(nan, 0.5, 0.7, 0.7))
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    first, second = strict(printed.out)["points"]
    assert first["scores"] == {"0": None, "1": 0.7}
    assert (first["mean"], first["sd"]) == (None, None)
    assert second["mean"] == pytest.approx(0.6) and second["sd"] == pytest.approx(0.02**0.5)
    assert printed.err == "0 cells to run, 4 finished before\n"
    (first, second) = csv.DictReader((tmp_path / "runs/results.csv").open())
    assert isnan(float(first["mean"])) and first["seeds"] == "2"
    assert main(command) == 0
    assert "nan ± nan" in capsys.readouterr().out


def test_cells_without_the_metric_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = {"val_loss": 2.0}
    first, *rest = scores(0.4, 0.5, 0.7)
    command = finished(tmp_path, [first, loss, rest[0], loss])
    assert main(command) == 1
    printed = capsys.readouterr()
    log = tmp_path / "runs/rank=2/seed=0/log.txt"
    assert printed.err.splitlines()[1:] == [
        "failed: rank=2 seed=0 and 1 more: it reports no val_acc, but val_loss (see " + f"{log})"
    ]
    assert "0.450 ± 0.071" in printed.out and "0/2" in printed.out
    assert main([*command, "--json"]) == 1
    result = strict(capsys.readouterr().out)
    assert [row["mean"] for row in result["points"]] == [pytest.approx(0.45), None]
    assert [row["name"] for row in result["failed"]] == ["rank=2 seed=0", "rank=2 seed=1"]


def test_metric_that_no_cell_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = finished(tmp_path, scores(0.4, 0.5, 0.6, 0.7), metric="val_accuracy")
    assert main(command) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        "error: metric is 'val_accuracy', but rank=1 seed=0 reports val_acc, val_loss; did you "
        "mean 'val_acc'?: name one of them, or change what keeps it from this cell; finished "
        "cells are kept"
    ]


def test_names_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["FedTT [plus]", "FedTT [/dense]", ":smile:"]
    grid = {"a.[bold]": {name: {"model.lr": 0.1} for name in names}}
    assert main(finished(tmp_path, scores(0.4, 0.5, 0.6), grid=grid, seeds=[0])) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*names, "[bold]"))


def test_folders_are_checked_before_a_cell_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, said(tmp_path))
    last = cells_of(read_study(path))[-1]
    last.folder.mkdir(parents=True)
    (last.folder / "thesis.txt").touch()
    assert main(["study", "--config", path]) == 2
    assert capsys.readouterr().err.startswith(f"error: {last.folder} holds files that no study")
    assert [*(tmp_path / "runs").rglob("cell.json")] == []


def test_config_that_becomes_no_yaml_fails_its_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "base.yaml"
    config.write_text("model: {lr: 0.1}\n")
    cells = cells_of(read_study(write(tmp_path, said(tmp_path, configs=[str(config)]))))
    runner = StudyRunner(cells, cells, "val_acc", 2, [])
    config.write_text("model: {lr: [")
    runner.run()
    assert [cell for cell, _ in runner.failed] == cells
    assert all(reason.startswith(f"{config}:1: no YAML: ") for _, reason in runner.failed)
    assert "[4/4] rank=2 seed=1: FAILED: " in capsys.readouterr().err


def test_share_without_a_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = finished(tmp_path, scores(0.4, 0.5, 0.6, 0.7))
    assert main([*command, "--cells", "5/8", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("0 cells, 0 to run, ")
    assert main([*command, "--cells", "5/8"]) == 0
    assert "0.500 ± 0.141" in capsys.readouterr().out
