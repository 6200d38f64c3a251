"""Clients that drop out, are late or come in vain cost the bytes of real messages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from fedtt_lightning.callbacks import Communication, RoundReport
from fedtt_lightning.federation import AdapterState, ClientFailures, FixedSampler, RoundPlan
from toy_run import make_run

ROUNDS = 8


class Wire(Callback):
    """Sends what clients fetch and send as safetensors messages, and counts their bytes.

    Down: what differs from the client's copy of the adapter, kept here whole. Up: the tensors that
    train in the round, whatever their values.
    """

    def __init__(self) -> None:
        self.copies: dict[int, dict[str, torch.Tensor]] = {}
        self.down: list[int] = []
        self.up: list[int] = []
        self.plans: list[RoundPlan] = []

    def on_round_start(self, trainer, module, plan) -> None:  # type: ignore[no-untyped-def]
        loop = trainer.callbacks[0].loop
        self.plans.append(plan)
        now = {name: value.clone() for name, value in loop.adapter.tensors().items()}
        trained = {name: now[name] for name in loop.trained}
        clients = [visit.client for visit in plan.visits]
        down = up = 0
        for client in [*clients, *plan.dropped, *plan.late, *plan.unused]:
            copy = self.copies.get(client)
            new = [n for n in now if copy is None or not torch.equal(copy[n], now[n])]
            if new:
                down += len(AdapterState.capture({n: now[n] for n in new}).to_bytes())
            self.copies[client] = now
        for _ in [*clients, *plan.late, *plan.unused]:
            up += len(AdapterState.capture(trained).to_bytes())
        self.down.append(down)
        self.up.append(up)


def fit(folder: Path, *extra: Callback, **federation: object) -> tuple[Wire, Communication, list]:
    wire = Wire()
    options = {"sampler": FixedSampler([0, 1, 2, 3]), "local_epochs": 1, **federation}
    trainer, module, data, record = make_run(
        folder, wire, *extra, federation=options, max_epochs=ROUNDS
    )
    trainer.fit(module, datamodule=data)
    communication = next(c for c in trainer.callbacks if isinstance(c, Communication))
    return wire, communication, [record.rounds[round] for round in range(ROUNDS)]


@pytest.mark.parametrize("min_clients", [1, 2])
def test_counts_every_message(tmp_path: Path, min_clients: int) -> None:
    failures = ClientFailures(dropout_rate=0.35, deadline=8, slowness=1.0)
    wire, communication, metrics = fit(tmp_path, failures=failures, min_clients=min_clients)
    assert sum(len(plan.dropped) for plan in wire.plans) > 3
    assert sum(len(plan.late) for plan in wire.plans) > 3
    assert any(plan.unused for plan in wire.plans) == (min_clients > 1)
    assert any(plan.visits for plan in wire.plans)
    for round, (plan, values) in enumerate(zip(wire.plans, metrics, strict=True)):
        assert values["comm/download_bytes"] == wire.down[round], round
        assert values["comm/upload_bytes"] == wire.up[round], round
        assert values["comm/download_bytes_total"] == sum(wire.down[: round + 1])
        assert values["comm/upload_bytes_total"] == sum(wire.up[: round + 1])
        assert values["fed/clients"] == len(plan.visits)
        assert values["fed/clients_dropped"] == len(plan.dropped)
        assert values["fed/clients_late"] == len(plan.late)
    uploads = [len(p.visits) + len(p.late) + len(p.unused) for p in wire.plans]
    assert communication.uploads == sum(uploads)
    assert communication.downloads == 4 * ROUNDS


def test_a_dropped_client_downloads_only(tmp_path: Path) -> None:
    failures = ClientFailures(dropout_rate=0.999999)
    wire, communication, metrics = fit(tmp_path, failures=failures)
    assert all(len(plan.dropped) == 4 for plan in wire.plans)
    assert communication.uploaded_total == communication.uploads == 0
    first = metrics[0]["comm/download_bytes"]
    assert first == wire.down[0] > 0
    assert communication.downloaded_total == first  # the adapter never changes


def test_lines_show_who_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failures = ClientFailures(dropout_rate=0.35, deadline=8, slowness=1.0)
    wire, *_ = fit(tmp_path, RoundReport(), failures=failures, min_clients=2)
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("round ")]
    for round, (plan, line) in enumerate(zip(wire.plans, lines, strict=True), 1):
        dropped, late = len(plan.dropped), len(plan.late)
        end = (f"  {dropped} dropped" if dropped else "") + (f"  {late} late" if late else "")
        assert line.endswith(end) and line.count("dropped") == bool(dropped)
        if plan.skipped:
            why = f"{len(plan.unused)} of 4 clients answered in time, 2 needed"
            assert line.startswith(f"round {round}/8 skipped: {why}  up ")
        else:
            assert line.startswith(f"round {round}/8  loss 0.")
    assert {plan.skipped for plan in wire.plans} == {True, False}
