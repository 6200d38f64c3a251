"""Cells: their order and arguments, and when a record still counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.cell_process import CellProcess, stop
from fedtt_lightning.studies.cells import Cell, cells_of
from fedtt_lightning.studies.estimate import plan_text, study_plan
from fedtt_lightning.studies.study_file import read_study
from studies.study_files import ROOT, said, write

PLUS = str(ROOT / "callbacks/fedtt_plus.yaml")
LR = {"model.lr": 0.5}
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


def test_arguments_name_folders(tmp_path: Path) -> None:
    grid = {"data.data_dir": ["{data}/glue"], "model.peft": {"a": {"model.peft": {"rank": 2}}}}
    cell = replace(cells(tmp_path, grid=grid)[0], folders={"data": "/here"})
    arguments = cell.arguments()
    assert arguments[:2] == ["fit", "--config"]
    assert "--data.data_dir=/here/glue" in arguments
    assert '--model.peft={"rank": 2}' in arguments
    assert arguments.index("--data.clients=2") < arguments.index("--data.data_dir=/here/glue")
    assert f"--trainer.default_root_dir={cell.folder}" in arguments


def test_folder_may_move_but_another_model_is_another_cell(tmp_path: Path) -> None:
    grid = {"model.backbone": ["{backbone}/encoder"]}
    cell = cells(tmp_path, grid=grid)[0]
    for place in ("a/bert", "b/bert", "b/roberta"):
        (tmp_path / place).mkdir(parents=True)

    def key(name: str) -> str:
        return replace(cell, folders={"backbone": name}).key()

    assert key(f"{tmp_path}/a/bert") == key(f"{tmp_path}/b/bert/") != key(f"{tmp_path}/b/roberta")
    assert key("org/bert") != key("other/bert") != key("builtin")
    unused = replace(cell, folders={"backbone": "builtin", "data": str(tmp_path)})
    assert unused.key() == key("builtin")
    unused.write(0.0)  # of which a report tells what has moved
    record = unused.record()
    assert record is not None and record["folders"] == unused.folders


def test_axes_do_not_set_the_same_key(tmp_path: Path) -> None:
    method = {"A": {"model.lr": 1, "configs": PLUS}, "B": {"configs": PLUS}}
    with pytest.raises(
        ConfigError, match=r"grid\.model\.lr and grid.method: A both set model.lr: "
    ):
        cells(tmp_path, grid={"model.lr": [2, 3], "method": method})
    found = cells(tmp_path, grid={"method": method, "n": {"C": {"configs": PLUS}}}, options=LR)
    assert [cell.options["model.lr"] for cell in found] == [1, 0.5] * 2
    assert [cell.configs[1:] for cell in found] == [(PLUS, PLUS)] * 4


def test_name_of_a_folder_has_an_end(tmp_path: Path) -> None:
    cells(tmp_path, grid={"m": {"é" * 126: None}})
    with pytest.raises(ConfigError, match=r"bytes, m=é+…, and 255 are the most: give choices"):
        cells(tmp_path, grid={"m": {"é" * 127: None}})


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


def test_result_is_of_the_settings_that_a_run_began_with(tmp_path: Path) -> None:
    """Of a cell that has been stopped, by the process that ran it."""
    config = tmp_path / "base.yaml"
    config.write_text("model: {lr: 0.1}\n")
    cell = cells(tmp_path, configs=[str(config)])[0]
    run = CellProcess(cell, None, 1)
    config.write_text("model: {lr: 0.2}\n")
    stop([run])
    assert cell.record() is None
    config.write_text("model: {lr: 0.1}\n")
    record = cell.record()
    assert record is not None and record["seconds"] > 0
    assert cell.log.stat().st_mode & 0o111 == 0


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
    for act in (cell.check_folder, cell.clear):
        with pytest.raises(ConfigError, match="no study has written"):
            act()
    assert (cell.folder / "thesis.txt").exists()
    cell.write(1.0)
    cell.clear()
    assert not cell.folder.exists()
    cell.folder.touch()
    with pytest.raises(ConfigError, match="seed=0 is no folder: move it"):
        cell.check_folder()


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
    assert plan_text(study_plan(found, [], 2)) == "0 cells, 0 to run, 2 at a time"
