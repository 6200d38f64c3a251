"""Cells: their order and arguments, and when a record still counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.cells import Cell, cells_of
from fedtt_lightning.studies.estimate import plan_text, study_plan
from fedtt_lightning.studies.study_file import read_study
from studies.study_files import said, write

SUMMARY = {"upload_bytes_total": 1000, "download_bytes_total": 500, "metrics": {"val_acc": 0.5}}


def cells(folder: Path, **changes: Any) -> list[Cell]:
    return cells_of(read_study(write(folder, said(folder, **changes))))


def test_every_point_has_every_seed(tmp_path: Path) -> None:
    grid = {"model.peft.rank": [1, 2], "method": {"A": {"model.lr": 0.1}, "B b": None}}
    found = cells(tmp_path, grid=grid)
    assert [cell.name for cell in found] == [
        f"rank={rank} method={method} seed={seed}"
        for seed in (0, 1)
        for rank in (1, 2)
        for method in ("A", "B b")
    ]
    assert found[1].folder == tmp_path / "runs" / "rank=1_method=B_b" / "seed=0"
    assert found[0].options["model.lr"] == 0.1 and "model.lr" not in found[1].options
    assert len({cell.key() for cell in found}) == len(found)


def test_arguments_name_folders_that_are_no_part_of_a_cell(tmp_path: Path) -> None:
    grid = {"data.data_dir": ["{data}/glue"], "model.peft": {"a": {"model.peft": {"rank": 2}}}}
    cell = cells(tmp_path, grid=grid)[0]
    arguments = cell.arguments({"data": "/here"})
    assert arguments[:2] == ["fit", "--config"]
    assert "--data.data_dir=/here/glue" in arguments
    assert '--model.peft={"rank": 2}' in arguments
    assert arguments.index("--data.clients=2") < arguments.index("--data.data_dir=/here/glue")
    assert f"--trainer.default_root_dir={cell.folder}" in arguments


def test_folders_are_not_shared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 points of the grid would share the folder m=A_b"):
        cells(tmp_path, grid={"m": {"A b": None, "A*b": None}})


def test_record_counts_while_nothing_has_changed(tmp_path: Path) -> None:
    config = tmp_path / "base.yaml"
    config.write_text("model: {lr: 0.1}\n")
    cell = cells(tmp_path, configs=[str(config)])[0]
    assert cell.finished() is None
    cell.write(1.5, summary=SUMMARY)
    record = cell.finished()
    assert record is not None and record["summary"] == SUMMARY and record["seconds"] == 1.5
    assert replace(cell, options={**cell.options, "model.lr": 2}).finished() is None
    config.write_text("model: {lr: 0.2}  # other\n")
    assert cell.finished() is None
    config.write_text("# a comment is no change\nmodel:\n  lr: 0.1\n")
    assert cell.finished() is not None
    (cell.folder / "cell.json").write_text('{"key": ')
    assert cell.finished() is None


def test_only_an_interrupted_run_with_a_checkpoint_resumes(tmp_path: Path) -> None:
    cell = cells(tmp_path)[0]
    cell.write(1.0)
    assert not cell.resumes()
    (cell.folder / "checkpoints").mkdir()
    (cell.folder / "checkpoints" / "last.ckpt").touch()
    assert cell.resumes()
    assert not replace(cell, options={}).resumes()
    cell.write(1.0, error="no memory")
    assert not cell.resumes()


def test_files_of_others_stay(tmp_path: Path) -> None:
    cell = cells(tmp_path)[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="no study has written"):
        cell.clear()
    assert (cell.folder / "thesis.txt").exists()
    cell.write(1.0)
    cell.clear()
    assert not cell.folder.exists()


def test_plan_knows_what_finished_cells_took(tmp_path: Path) -> None:
    found = cells(tmp_path)
    plan = study_plan(found, found, 2)
    assert plan["seconds_left"] is None and plan["bytes_left"] is None
    assert "nothing is known" in plan_text(plan)
    found[0].write(60.0, summary=SUMMARY)
    plan = study_plan(found, found, 2)
    assert [row["state"] for row in plan["cells"]] == ["finished", *["to run"] * 3]
    assert [row["bytes"] for row in plan["cells"]] == [1500, None, 1500, None]
    assert plan["seconds_left"] == 3 * 60 / 2 and plan["bytes_left"] == 1500
    assert plan["cells_of_unknown_bytes"] == 2
    share = study_plan(found, found[1:3], 2)  # what others have run is known to it
    assert [row["bytes"] for row in share["cells"]] == [None, 1500]
    assert share["seconds_left"] == 60
    assert "about 1.5 minutes" in plan_text(plan)
    for cell in found:
        cell.write(60.0, summary=SUMMARY)
    assert study_plan(found, found, 2)["seconds_left"] == 0
