"""A study as a user runs it: real cells, each as `fit` would run it, and failures apart."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedtt_lightning.__main__ import main
from fedtt_lightning.report import Report
from studies.study_files import ROOT, fit, run, said, write

SMALL = yaml.safe_load((ROOT / "configs/studies/small.yaml").read_text())
pytestmark = pytest.mark.processes


def load(path: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(path.read_text())
    return said


def test_small_study(
    tmp_path: Path,
    tiny_backbone: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    options = said(tmp_path, tiny_backbone)["options"]
    small = SMALL | {"options": options, "folder": str(tmp_path / "runs")}
    small["grid"] = small["grid"] | {"model.peft.rank": [2]}
    path = write(tmp_path, small)
    code, result = run(path, capsys)
    assert code == 0 and result["failed"] == []
    assert [row["point"]["method"] for row in result["points"]] == ["FedTT", "FedTT+"]

    plus = ["--config", "callbacks/fedtt_plus.yaml", "--model.peft.rank=2", "--seed_everything=1"]
    alone = fit(small, tmp_path / "alone", *plus)
    row = result["points"][1]
    assert row["scores"]["1"] == alone["metrics"]["val_acc"]
    assert row["upload_bytes_total"] == alone["upload_bytes_total"]
    assert row["trainable_parameters"] == alone["trainable_parameters"]
    assert row["mean"] == statistics.mean(row["scores"].values())
    assert row["sd"] == pytest.approx(statistics.stdev(row["scores"].values()))
    (_, line) = csv.DictReader((tmp_path / "runs/results.csv").open())
    assert line["method"] == "FedTT+" and float(line["mean"]) == row["mean"]
    assert line["model.peft.rank"] == "2" and line["seeds"] == "2"

    (task,) = (numbers := Report([tmp_path / "runs"]).numbers())["tasks"]
    shown = [row[1:3] for row in task["charts"]["task1-grid1"]["rows"]]
    assert shown == [[r["point"]["method"], pytest.approx(r["mean"])] for r in result["points"]]
    for row in numbers["runs"]:  # and not that of the process which it was forked from
        assert " -m fedtt_lightning fit --config configs/quickstart.yaml " in row["command"]

    records = sorted((tmp_path / "runs").rglob("cell.json"))
    told = {r.parent.relative_to(tmp_path / "runs").as_posix(): load(r)["key"] for r in records}
    assert load(tmp_path / "runs/study.json")["cells"] == told and len(told) == 4
    times = [record.stat().st_mtime_ns for record in records]
    capsys.readouterr()
    assert run(path, capsys)[1] == result
    assert [record.stat().st_mtime_ns for record in records] == times
    # A changed cell is run again, and what it left before is gone.
    small["grid"]["method"]["FedTT+"]["model.lr"] = 0.02
    plan = run(write(tmp_path, small), capsys, "--dry-run")[1]
    assert [cell["state"] for cell in plan["cells"]] == ["finished", "to run"] * 2


def test_failures_are_kept_apart(
    tmp_path: Path, tiny_backbone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {"federation.sampler.clients_per_round": [99, 2]}
    path = write(tmp_path, said(tmp_path, tiny_backbone, grid=grid, seeds=[0]))
    assert main(["study", "--config", path, "--jobs", "2"]) == 1
    printed = capsys.readouterr()
    log = tmp_path / "runs/clients_per_round=99/seed=0/log.txt"
    (line,) = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: clients_per_round=99 seed=0: federation.sampler")
    assert line.endswith(f"(see {log})") and log.is_file()
    assert "0/1" in printed.out and "1/1" in printed.out
    # A metric that no run reports, which the finished cell tells.
    other = said(tmp_path, tiny_backbone, grid=grid, seeds=[0], metric="val_accuracy")
    other["grid"] = {"federation.sampler.clients_per_round": [2]}
    assert main(["study", "--config", write(tmp_path, other)]) == 2
    error = capsys.readouterr().err.strip()
    assert "metric is 'val_accuracy'" in error and "did you mean 'val_acc'?" in error


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"model.peft.rnak": [1]}, "has no argument 'rnak'; did you mean 'rank'?"),
        ({"modl": [1]}, "unknown key 'modl'; did you mean 'model'?"),
        ({"model.peft.rank": [1, "x"]}, "grid.model.peft.rank: x: model.peft.rank: "),
        ({"trainer.devices": [1, 2]}, "trainer.devices is 2"),
        ({"trainer.callbacks": [None, []]}, "no fedtt_lightning.callbacks.RoundReport"),
        ({"data.cache_dir": ["{data}/cache"]}, "needs {data}: add --data FOLDER"),
    ],
)
def test_what_fit_does_not_know_is_refused_before_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], grid: dict[str, Any], message: str
) -> None:
    assert main(["study", "--config", write(tmp_path, said(tmp_path, grid=grid))]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {tmp_path}/study.yaml: ")
    assert message in error and "\n" not in error
    assert not (tmp_path / "runs").exists()
