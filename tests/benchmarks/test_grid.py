"""Cells run in processes of their own, are kept when done, and make the tables."""

import argparse
import json
from pathlib import Path

import baselines
import pytest
from grid import Cell, run_cells

OPTIONS = (
    "--trainer.max_epochs", "1", "--data.train_size", "40", "--data.validation_size", "20",
    "--data.test_size", "20", "--trainer.enable_progress_bar", "false",
)  # fmt: skip


def cell(name: str, *options: str) -> Cell:
    return Cell(name, ("configs/quickstart.yaml",), (*OPTIONS, *options))


@pytest.mark.processes
def test_a_cell_runs_once_and_a_failed_one_is_told(
    tmp_path: Path, tiny_backbone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = cell("a/good"), cell("bad", "--data.batch_size", "0")
    assert not run_cells([good, bad], tmp_path, "", tiny_backbone, 1)
    out = capsys.readouterr().out
    assert "bad: FAILED: data.batch_size is 0" in out
    record = good.finished(tmp_path)
    assert record is not None and bad.finished(tmp_path) is None
    assert record["summary"]["rounds"] == 1 and record["head_parameters"] > 0
    assert run_cells([good], tmp_path, "", tiny_backbone, 1)
    assert capsys.readouterr().out == ""
    assert cell("a/good", "--model.lr", "1.0").finished(tmp_path) is None


def test_paths_are_no_part_of_what_a_cell_is() -> None:
    one = cell("x", "--data.data_dir", "{data}/glue")
    assert one.arguments(Path("o"), "/d", "/b")[-5:] == [
        "/d/glue", "--model.backbone", "/b", "--trainer.default_root_dir", str(Path("o/x")),
    ]  # fmt: skip
    assert one.key != cell("x", "--data.data_dir", "{data}").key


def finish(out: Path, one: Cell, accuracy: float) -> None:
    summary = {
        "metrics": {"val_acc": accuracy},
        "trainable_parameters": 30,
        "upload_bytes_per_client": 3072,
        "upload_bytes_total": 9000,
    }
    folder = out / one.name
    folder.mkdir(parents=True)
    record = {"key": one.key, "seconds": 1.0, "head_parameters": 256, "summary": summary}
    (folder / "done.json").write_text(json.dumps(record))


def test_the_table_says_what_is_there_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = "LoRA r=8"
    for lr, score in zip(baselines.RATES, (0.5, 0.75, 0.625), strict=True):
        finish(tmp_path, baselines.tuning("TREC", method, lr), score)
    best = baselines.RATES[1]
    assert baselines.best_rate(tmp_path, "TREC", method) == best
    assert baselines.best_rate(tmp_path, "TREC", "FedTT r=5") is None
    for seed, score in enumerate((0.5, 0.75, 1.0)):
        finish(tmp_path, baselines.cell("TREC", method, "mild", 10, best, seed), score)
    finish(tmp_path, baselines.cell("TREC", method, "severe", 10, best, 0), 0.25)
    args = argparse.Namespace(out=tmp_path, datasets=["TREC"], clients=[10])
    (mild, severe) = baselines.results(args)
    assert (mild["mean"], mild["deviation"], mild["seeds"]) == (0.75, 0.25, 3)
    assert (severe["deviation"], severe["seeds"]) == (None, 1)
    baselines.table(args)
    out = capsys.readouterr().out
    assert "| method | lr | 10, mild | 10, severe | up a visit | without head |" in out
    row = f"| {method} | {best} | .750 ± .250 | .250 (1) | 3.0 KiB | 2.0 KiB |"
    assert row in out
    assert "4 of 63 runs are done:" in out
    assert "TREC, 10 clients: 59 runs are missing" in out
    assert "no learning rate yet for FedTT r=5" in out
