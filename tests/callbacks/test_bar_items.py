"""Whatever the bar: it shows the round, who trains, the bytes so far and ε."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import rich
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from fedtt_lightning.callbacks import RoundReport
from fedtt_lightning.wording import human_bytes
from private_run import private_run
from toy_run import ROUNDS, make_run


class Kept(ProgressBar):
    """Somebody's own bar, which keeps what it would show after each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.shown.append(self.get_metrics(trainer, module))

    def disable(self) -> None:
        pass


def test_each_batch_of_a_private_run(tmp_path: Path) -> None:
    bar = Kept()
    trainer, module, data, record = private_run(
        tmp_path, RoundReport(), bar, enable_progress_bar=True
    )
    trainer.fit(module, datamodule=data)
    loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
    plans = [loop.planner.plan(round) for round in range(ROUNDS)]
    assert len(bar.shown) == sum(plan.num_batches for plan in plans)
    shown = iter(bar.shown)
    for round, plan in enumerate(plans):
        before = record.rounds.get(round - 1, {})
        expected = {"round": str(round + 1)}
        if round > 0:
            expected["ε"] = f"{before['dp/epsilon_max']:.2f}"
        sent = before.get("comm/upload_bytes_total", 0)
        for i, visit in enumerate(plan.visits, 1):
            for step in range(visit.num_batches):
                items = next(shown)
                if step == 0:
                    message = record.rounds[round]["comm/upload_bytes"] / len(plan.visits)
                    expected["up"] = human_bytes(sent + message * (i - 1))
                if step + 1 == visit.num_batches:
                    expected["up"] = human_bytes(sent + message * i)
                if visit is not plan.visits[-1] or step + 1 < visit.num_batches:
                    expected["client"] = f"{visit.client} ({i}/{len(plan.visits)})"
                else:
                    expected.pop("client")  # the round is closed
                assert {k: items[k] for k in ("round", "client", "up", "ε") if k in items} == (
                    expected
                )
    assert "val_loss" in items, "what the bar shows of itself stays"


def test_a_bar_shows_nothing_of_a_fit_that_has_ended(tmp_path: Path) -> None:
    bar = Kept()
    trainer, module, data, _ = make_run(
        tmp_path, RoundReport(), bar, max_epochs=1, enable_progress_bar=True
    )
    trainer.fit(module, datamodule=data)
    assert "round" in bar.shown[-1]
    assert "round" not in bar.get_metrics(trainer, module)


def test_clients_side_by_side(tmp_path: Path) -> None:
    bar = Kept()
    together = {"cohort_batch": 2}
    trainer, module, data, _ = make_run(
        tmp_path, RoundReport(), bar, federation=together, enable_progress_bar=True, plus=False
    )
    trainer.fit(module, datamodule=data)
    shown = {items.get("client") for items in bar.shown}
    loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
    last = {f"{loop.planner.plan(r).visits[-1].client} (3/3)" for r in range(ROUNDS)}
    assert "2 side by side (2/3)" in shown
    assert shown <= {"2 side by side (2/3)", None, *last}


def test_tqdm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = TQDMProgressBar(refresh_rate=1)
    trainer, module, data, record = make_run(
        tmp_path, RoundReport(), bar, enable_progress_bar=True, max_epochs=1
    )
    trainer.fit(module, datamodule=data)
    lines = "".join(capsys.readouterr()).replace("\r", "\n").splitlines()
    total = human_bytes(record.rounds[0]["comm/upload_bytes_total"])
    assert any("round=1, client=" in line for line in lines)
    assert any(f"round=1, up={total}]" in line for line in lines)


def test_rich(tmp_path: Path) -> None:
    options = {"record": True, "force_terminal": True, "file": io.StringIO(), "width": 160}
    bar = RichProgressBar(console_kwargs=options)
    trainer, module, data, record = make_run(
        tmp_path, RoundReport(), bar, enable_progress_bar=True, max_epochs=1
    )
    try:
        trainer.fit(module, datamodule=data)
        text = bar._console.export_text()
    finally:
        rich.reconfigure()  # the bar has put its options into Rich's global console
    total = human_bytes(record.rounds[0]["comm/upload_bytes_total"])
    assert f"round: 1 up: {total}" in text
