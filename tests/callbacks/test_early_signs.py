"""Spread of losses, drift and participation, against their definitions in NumPy."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fedtt_lightning.callbacks import EarlySigns
from fedtt_lightning.federation import AdapterState, ClientFailures, UniformSampler, Visit
from toy_run import At, make_run, outcome


class Watch(Callback):
    """Keeps every loss and update, and changes the updates of odd clients once it has."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.batches: list[float] = []
        self.losses: dict[tuple[int, int], float] = {}
        self.updates: dict[tuple[int, int], np.ndarray] = {}

    def on_client_start(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        self.batches = []

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        self.batches.append(float(loss.detach()))

    def on_client_update(
        self, trainer: Trainer, module: LightningModule, visit: Visit, update: AdapterState
    ) -> AdapterState:
        factor = self.factor if visit.client % 2 else 1.0
        changed = {dtype: buffer * factor for dtype, buffer in update.buffers.items()}
        flat = np.concatenate([buffer.numpy() for buffer in changed.values()])
        self.updates[visit.round, visit.client] = flat
        return AdapterState(update.schema, changed)

    def on_client_end(self, trainer: Trainer, module: LightningModule, visit: Visit) -> None:
        if np.isfinite(self.updates[visit.round, visit.client]).all():
            self.losses[visit.round, visit.client] = sum(self.batches) / len(self.batches)


def expected(watch: Watch, sizes: list[int], weighted: bool, round: int) -> dict[str, float]:
    """The definitions, with every update in memory."""
    clients = [c for r, c in watch.losses if r == round]
    weights = np.array([sizes[c] if weighted else 1 for c in clients], dtype=float)
    weights /= weights.sum()
    updates = np.stack([watch.updates[round, c] for c in clients])
    losses = np.array([watch.losses[round, c] for c in clients])
    visits = np.array([sum(r <= round and c == i for r, c in watch.updates) for i in range(4)])
    return {
        "fed/loss_spread": losses.std(),
        "fed/loss_worst": losses.max(),
        "fed/drift": np.linalg.norm(weights @ updates)
        / (weights * np.linalg.norm(updates, axis=1)).sum(),
        "fed/visits_min": visits.min(),
        "fed/visits_max": visits.max(),
        "fed/clients_seen": (visits > 0).sum(),
        **{f"fed/visits/{c}": n for c, n in enumerate(visits)},
    }


@pytest.mark.parametrize(
    ("weighted", "factor"),
    [(True, 1.0), (True, -0.5), (False, 3.0), (True, float("nan"))],
    ids=["examples", "changed on the way", "equal weights", "odd clients left out"],
)
@pytest.mark.filterwarnings("ignore:client . is left out")
def test_equals_the_definitions(weighted: bool, factor: float, tmp_path: Path) -> None:
    weighting = "examples" if weighted else "equal"
    watch = Watch(factor)
    trainer, module, data, record = make_run(
        tmp_path, EarlySigns(), watch, federation={"weighting": weighting}, max_epochs=4
    )
    trainer.fit(module, datamodule=data)
    sizes = data.clients.sizes.tolist()
    for round, metrics in record.rounds.items():
        for name, value in expected(watch, sizes, weighted, round).items():
            assert metrics[name] == pytest.approx(value, rel=1e-12), (round, name)
        assert 0 < metrics["fed/drift"] < 1 + 1e-12
    with (tmp_path / "participation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["examples"]) for row in rows] == sizes
    assert [int(row["visits"]) for row in rows] == [
        sum(c == client for _, c in watch.updates) for client in range(4)
    ]


class SameOrOpposite(Callback):
    """Replaces updates by one and the same vector, with the client's own sign."""

    def __init__(self, signs: list[int]) -> None:
        self.signs = signs

    def on_client_update(
        self, trainer: Trainer, module: LightningModule, visit: Visit, update: AdapterState
    ) -> AdapterState:
        sign = self.signs[visit.client] / visit.num_examples
        buffers = {k: b.new_full(b.shape, sign) for k, b in update.buffers.items()}
        return AdapterState(update.schema, buffers)


@pytest.mark.parametrize(
    ("signs", "drift"), [([1, 1, 1, 1], 1.0), ([1, -1, 1, -1], 0.0), ([0, 0, 0, 0], None)]
)
def test_drift_at_its_ends(signs: list[int], drift: float | None, tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        EarlySigns(),
        SameOrOpposite(signs),
        max_epochs=1,
        federation={"sampler": UniformSampler()},
    )
    trainer, module, data, record = run
    trainer.fit(module, datamodule=data)
    if drift is None:
        assert "fed/drift" not in record.rounds[0]
    else:
        assert record.rounds[0]["fed/drift"] == pytest.approx(drift, abs=1e-12)


@pytest.mark.parametrize("batch", [2, 25, 43])
def test_goes_on(batch: int, tmp_path: Path) -> None:
    """Stopped inside a visit, at a visit's end, and in a round that some clients miss."""
    options: dict[str, Any] = {"federation": {"failures": ClientFailures(0.3), "min_clients": 2}}
    trainer, module, data, record = make_run(tmp_path / "whole", EarlySigns(), **options)
    trainer.fit(module, datamodule=data)
    whole = outcome(module, record)

    def stop(trainer: Trainer) -> None:
        trainer.save_checkpoint(tmp_path / "stopped.ckpt")
        raise RuntimeError("stopped")

    folder = tmp_path / "resumed"
    total = trainer.fit_loop.total_batch_idx
    stop_at = At(min(batch, total - 2), stop, end=True)
    trainer, module, data, _ = make_run(folder, EarlySigns(), stop_at, **options)
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.fit(module, datamodule=data)
    trainer, module, data, record = make_run(folder, EarlySigns(), **options)
    trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "stopped.ckpt")
    assert outcome(module, record) == whole
    written = [tmp_path / name / "participation.csv" for name in ("whole", "resumed")]
    assert written[0].read_bytes() == written[1].read_bytes()
