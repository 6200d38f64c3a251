"""A cell of every shipped study runs on real data, with fewer rounds, clients and sentences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fedtt_lightning.__main__ import main
from fedtt_lightning.studies.cells import cells_of
from fedtt_lightning.studies.study_file import read_study
from studies.study_files import ROOT

STUDIES = sorted((ROOT / "configs/studies").glob("*.yaml"))
FEWER = (
    "--data.clients=10",
    "--trainer.max_epochs=1",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.limit_val_batches=2",
)


@pytest.mark.real
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_last_cell(
    path: Path, tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the last choice of each axis: those that are unlike the base config."""
    monkeypatch.chdir(ROOT)
    models = tmp_path / "models"
    models.mkdir()
    bert = shared / "weights/bert-tiny-reviews"
    (models / "encoder").symlink_to(bert)
    (models / "decoder").symlink_to(shared / "weights/stories260k-llama")
    study = read_study(str(path))
    cell = replace(cells_of(study)[-1], folder=tmp_path / "run")
    several = "{backbone}/" in str(cell.options)
    folders = {"data": str(shared / "data"), "backbone": str(models if several else bert)}
    rows = ["--data.train_limit=200"] if "{data}" in str(cell.options) else []
    assert main([*cell.arguments(folders), *FEWER, *rows]) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert study.metric in summary["metrics"]
    assert summary["uploads"] > 0
