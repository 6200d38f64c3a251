"""Cells of a study: which count, which belong together, and what is told of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedtt_lightning.__main__ import main
from fedtt_lightning.report import Report
from run_files import write_run, write_study

GRID = {"model.peft.rank": ["16", "2"], "split": ["iid", "severe"]}


def record(cell: Path, **said: Any) -> None:
    """Change what a cell's record says."""
    path = cell / "cell.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))


def write_keys(study: Path) -> dict[str, str]:
    """Give each cell a key, and let study.json name them, as a study does."""
    cells = [path.parent for path in study.glob("*/*/cell.json")]
    keys = {str(cell.relative_to(study)): f"key of {cell.name}" for cell in cells}
    for cell in cells:
        record(cell, key=f"key of {cell.name}")
    path = study / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cells": keys}))
    return keys


def labels(task: dict[str, Any]) -> list[str]:
    return [group["label"] for group in task["groups"]]


def test_cells_of_an_earlier_form_of_the_study_are_left_out(tmp_path: Path) -> None:
    """A choice that was removed, and cells that were not yet run again with a new option."""
    study = write_study(tmp_path / "study", GRID | {"split": ["iid", "severe", "gone"]})
    for old in study.glob("*_gone"):
        old.rename(tmp_path / old.name)
    write_keys(study)
    for old in tmp_path.glob("*_gone"):
        old.rename(study / old.name)
    record(study / "2_iid/seed=1", key="another")
    report = Report(study)
    (task,) = report.numbers()["tasks"]
    assert labels(task) == [
        "1 rank 16, iid",
        "2 rank 16, severe",
        "3 rank 2, iid",
        "4 rank 2, severe",
    ]
    assert [len(group["runs"]) for group in task["groups"]] == [2, 2, 1, 2]
    assert "task1-grid1" in task["charts"]
    problem = "16_gone/seed=0 and 4 more: not of the study as study.json now has it: left out"
    assert report.problems == [problem]


def test_a_point_is_one_group_wherever_its_folders_were(tmp_path: Path) -> None:
    study = write_study(tmp_path, GRID)
    for log in study.glob("*/seed=1/lightning_logs/version_0/config.yaml"):
        text = log.read_text()
        log.write_text(text.replace("backbone", "/moved/backbone").replace("sst2", "/moved/sst2"))
    assert len(Report(study).numbers()["tasks"]) == 2  # as an earlier version left it
    write_keys(study)
    (task,) = Report(study).numbers()["tasks"]
    assert [len(group["runs"]) for group in task["groups"]] == [2] * 4
    assert task["task"] == "GlueData, task: sst2" and "task1-grid1" in task["charts"]


def test_a_task_is_one_wherever_its_folder_was(tmp_path: Path) -> None:
    """With a single seed, each point of which has had the data in another place."""
    study = write_study(tmp_path, GRID, seeds=1)
    for i, log in enumerate(study.glob("*/*/lightning_logs/version_0/config.yaml")):
        log.write_text(log.read_text().replace("sst2", f"/at/{i}/glue"))
        record(log.parents[2], folders={"data": f"/at/{i}"})
    write_keys(study)
    (task,) = Report(study).numbers()["tasks"]
    assert task["task"] == "GlueData, task: {data}/glue" and len(task["groups"]) == 4


def test_studies_have_sections_of_their_own(tmp_path: Path) -> None:
    """With a point that both have, and a run that is of none."""
    write_study(tmp_path / "ranks", GRID, seeds=1)
    write_study(tmp_path / "more" / "ranks", {"model.peft.rank": ["2", "4"], "split": ["iid"]})
    write_run(tmp_path / "run")
    report = Report(tmp_path)
    tasks = report.numbers()["tasks"]
    name = "GlueData, task: sst2"
    assert [task["task"] for task in tasks] == [f"more/ranks: {name}", f"ranks: {name}", name]
    assert [len(task["groups"]) for task in tasks] == [2, 4, 1]
    assert [f"task{i}-grid1" in task["charts"] for i, task in enumerate(tasks, 1)] == [1, 1, 0]
    assert report.problems == []


def test_a_failed_cell_is_one_line_and_no_group(tmp_path: Path) -> None:
    """Whether it failed in its set-up, or in a later round."""
    study = write_study(tmp_path, GRID)
    for cell in ("16_iid", "2_iid"):
        for path in (study / cell / "seed=0").rglob("*.*"):
            if path.name not in ("cell.json", "version_0"):
                path.unlink()
        record(study / cell / "seed=0", error="out of memory")
    (study / "16_severe/seed=0/summary.json").unlink()
    record(study / "16_severe/seed=0", error="diverged")
    report = Report(study)
    (task,) = report.numbers()["tasks"]
    assert [len(group["runs"]) for group in task["groups"]] == [1, 1, 1, 2]
    assert report.problems == [
        "16_iid/seed=0 and 1 more: it has failed: out of memory",
        "16_severe/seed=0: it has failed: diverged",
    ]
    assert len(report.numbers()["runs"]) == 5


def test_a_cell_that_has_just_begun(tmp_path: Path) -> None:
    study = write_study(tmp_path, GRID, seeds=1)
    for path in (study / "2_iid/seed=0").rglob("*.*"):
        if path.is_file() and path.name != "cell.json":
            path.unlink()
    report = Report(study)
    (task,) = report.numbers()["tasks"]
    assert len(task["groups"]) == 3
    assert report.problems == ["2_iid/seed=0: no round of it has ended: left out"]


def test_no_cell_that_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path, GRID, seeds=1)
    for cell in study.glob("*/*"):
        record(cell, error="out of memory")
    assert main(["report", str(study), "--json"]) == 2
    printed = capsys.readouterr()
    line = "16_iid/seed=0 and 3 more: it has failed: out of memory"
    assert printed.err == f"error: no run is left to report: {line}\n" and not printed.out
