"""A line for every round and the whole table at the end, above a progress bar or without one."""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import rich
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import RichProgressBar

from fedtt_lightning import FederatedDataModule
from fedtt_lightning.callbacks import (
    ClientEvaluation,
    FedProx,
    Personalization,
    RoundReport,
    Scaffold,
)
from fedtt_lightning.federation import (
    ClientFailures,
    CoordinateMedian,
    FedAdam,
    PoissonSampler,
    UniformSampler,
)
from fedtt_lightning.wording import human_bytes
from skipping_run import SKIPPED, skipping
from toy import ToyData
from toy_run import At, make_run


def check(text: str, folder: Path) -> None:
    for round in (1, 2, 3):
        assert text.count(f"round {round}/3  loss 0.") == 1
    assert "3 rounds, 9 uploads" in text
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rounds"] == 3 and summary["uploads"] == 9
    assert human_bytes(summary["upload_bytes_total"]) in text
    assert f"{summary['metrics']['val_acc']:.3f}" in text


def test_without_a_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, module, data, _ = make_run(tmp_path, RoundReport())
    trainer.fit(module, datamodule=data)
    check(capsys.readouterr().out, tmp_path)


def test_without_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, module, data, _ = make_run(tmp_path, RoundReport(table=False), max_epochs=1)
    trainer.fit(module, datamodule=data)
    text = capsys.readouterr().out
    assert "round 1/1" in text and "uploads" not in text
    assert json.loads((tmp_path / "summary.json").read_text())["uploads"] == 3


def test_above_the_rich_bar(tmp_path: Path) -> None:
    options = {"record": True, "force_terminal": True, "file": io.StringIO(), "width": 100}
    bar = RichProgressBar(console_kwargs=options)
    trainer, module, data, _ = make_run(tmp_path, RoundReport(), bar, enable_progress_bar=True)
    try:
        trainer.fit(module, datamodule=data)
        check(bar._console.export_text(), tmp_path)
    finally:
        rich.reconfigure()  # the bar has put its options into Rich's global console


def test_rounds_without_validation_repeat_no_old_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, module, data, _ = make_run(tmp_path, RoundReport(), check_val_every_n_epoch=2)
    trainer.fit(module, datamodule=data)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round ")]
    assert ["val_acc" in line for line in lines] == [False, True, False]


def test_human_bytes() -> None:
    sizes = [human_bytes(n) for n in (5, 1023, 2048, 3 * 2**20, 5 * 2**30)]
    assert sizes == ["5 B", "1023 B", "2.0 KiB", "3.0 MiB", "5.00 GiB"]


def test_clients_scores_in_the_rounds_that_have_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = ClientEvaluation(every_n_rounds=2)
    own = Personalization(["head"])
    trainer, module, _, _ = make_run(tmp_path, own, evaluation, RoundReport(), max_epochs=4)
    module.score = lambda batch: (module.net(batch[0]).argmax(-1) == batch[1]).float()  # type: ignore[assignment]
    data = FederatedDataModule(ToyData(), clients=4, client_holdout=0.3)
    trainer.fit(module, datamodule=data)
    text = capsys.readouterr().out
    metrics = trainer.callback_metrics
    lines = [line for line in text.splitlines() if line.startswith("round ")]
    assert ["  clients 0." in line for line in lines] == [False, True, False, True]
    mean, worst = (metrics[f"client/personal_{name}"].item() for name in ("mean", "worst_decile"))
    assert f"clients {mean:.3f}  worst tenth {worst:.3f}" in lines[3]
    table = text[text.index("4 rounds") :]
    assert f"{mean:.3f}" in table and f"{worst:.3f}" in table


def test_rounds_that_were_all_skipped_leave_no_older_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text('{"uploads": 7}')
    nobody = {"sampler": PoissonSampler(1e-9)}
    trainer, module, data, _ = make_run(tmp_path, RoundReport(), federation=nobody)
    trainer.fit(module, datamodule=data)
    assert "3 rounds (3 skipped), 0 uploads" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["skipped_rounds"] == summary["rounds"] == 3
    assert summary["uploads"] == summary["upload_bytes_per_client"] == 0
    assert summary["upload_bytes_total"] == summary["dropped"] == summary["late"] == 0


def test_skipped_rounds_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, module, data, _ = make_run(tmp_path, RoundReport(), **skipping(tmp_path))
    trainer.fit(module, datamodule=data)
    assert f"8 rounds ({len(SKIPPED)} skipped), 14 uploads" in capsys.readouterr().out


def test_a_rule_that_cannot_work_skips_the_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Spoil(Callback):
        def on_client_update(self, trainer: Any, module: Any, visit: Any, update: Any) -> None:
            if visit.round == 1 and visit is trainer.callbacks[0].loop.plan.visits[0]:
                next(iter(update.buffers.values()))[0] = float("nan")

    median = {"aggregation": CoordinateMedian(), "min_clients": 2}
    trainer, module, data, _ = make_run(tmp_path, Spoil(), RoundReport(), federation=median)
    with pytest.warns(UserWarning, match="left out of round 2"):
        trainer.fit(module, datamodule=data)
    text = capsys.readouterr().out
    why = "round 2/3 skipped: 2 of 3 updates without NaN or Inf, the median of 2 updates bears no"
    assert why in text and "3 rounds (1 skipped), 9 uploads" in text


def test_what_was_run_and_who_failed(tmp_path: Path) -> None:
    """Also when the run goes on from a checkpoint inside a round."""
    failures = ClientFailures(dropout_rate=0.3, deadline=8, slowness=1.0)

    def run(folder: Path, *extra: Callback) -> Any:
        federation = {"sampler": UniformSampler(), "failures": failures, "server": FedAdam()}
        report = RoundReport()
        return make_run(folder, report, *extra, federation=federation, max_epochs=5)

    path = tmp_path / "kept.ckpt"
    keep = At(20, lambda trainer: trainer.save_checkpoint(path), end=True)
    trainer, module, data, record = run(tmp_path / "whole", keep)
    trainer.fit(module, datamodule=data)
    expected = json.loads((tmp_path / "whole" / "summary.json").read_text())
    for key in ("dropped", "late"):
        count = sum(values[f"fed/clients_{key}"] for values in record.rounds.values())
        assert expected[key] == count > 0
    assert expected["method"].endswith(", FedAdam") and expected["server"] == "FedAdam"
    assert expected["aggregation"] == "WeightedMean" and expected["ranks"] is None

    saved = torch.load(path, weights_only=True)
    kept = saved["callbacks"]["RoundReport"]
    assert 0 < kept["dropped"] + kept["late"] < expected["dropped"] + expected["late"]
    trainer, module, data, _ = run(tmp_path / "resumed")
    trainer.fit(module, datamodule=data, ckpt_path=path)
    resumed = json.loads((tmp_path / "resumed" / "summary.json").read_text())
    for summary in (expected, resumed):
        summary["metrics"].pop("train_loss", None)
        assert summary.pop("seconds") > 0
    first = [summary.pop("first_round") for summary in (expected, resumed)]
    assert first == [1, 1 + saved["epoch"]] and first[1] > 1
    assert resumed == expected


def test_what_made_the_run_and_what_its_clients_hold(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, RoundReport(), max_epochs=1)
    trainer.fit(module, datamodule=data)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert shlex.split(summary["command"])[1:] == sys.orig_argv[1:]
    assert summary["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    with (tmp_path / "partition.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    targets = data.labels()
    assert targets is not None and len(rows) == 4
    for client, row in enumerate(rows):
        own = targets[data.clients[client]]
        counts = {"label 0": (own == 0).sum(), "label 1": (own == 1).sum()}
        expected = {"client": client, "examples": len(own), **counts}
        assert row == {name: str(value) for name, value in expected.items()}


@pytest.mark.parametrize("callback", [Scaffold(), FedProx(0.1)])
def test_client_side_methods_are_named(callback: Callback, tmp_path: Path) -> None:
    equal = {"weighting": "equal"}
    run = make_run(tmp_path, callback, RoundReport(), federation=equal, max_epochs=2, plus=False)
    trainer, module, data, _ = run
    module.configure = lambda params: torch.optim.SGD(params, lr=0.01)
    trainer.fit(module, datamodule=data)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["method"] == f"no PEFT method, {type(callback).__name__}"
