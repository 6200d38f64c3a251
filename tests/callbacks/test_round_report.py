"""A line for every round and the whole table at the end, above a progress bar or without one."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import rich
from lightning.pytorch.callbacks import RichProgressBar

from fedtt_lightning import FederatedDataModule
from fedtt_lightning.callbacks import ClientEvaluation, Personalization, RoundReport
from fedtt_lightning.callbacks.round_report import human_bytes
from toy import ToyData
from toy_run import make_run


def check(text: str, folder: Path) -> None:
    for round in (1, 2, 3):
        assert text.count(f"round {round}/3  loss 0.") == 1
    assert "3 rounds, 9 client visits" in text
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rounds"] == 3 and summary["uploads"] == 9
    assert human_bytes(summary["upload_bytes_total"]) in text
    assert f"{summary['metrics']['val_acc']:.3f}" in text


def test_without_a_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, module, data, _ = make_run(tmp_path, RoundReport())
    trainer.fit(module, datamodule=data)
    check(capsys.readouterr().out, tmp_path)


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
