"""Bytes are those of real messages; under FedTT+ only what trains travels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load

from fedtt_lightning.callbacks import Communication, Scaffold
from fedtt_lightning.callbacks.communication import find_communication
from fedtt_lightning.federation import AdapterState
from toy_run import ROUNDS, At, make_run


class Messages(Callback):
    """Serializes every update as a client would, in the parameters' own dtype."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, AdapterState]] = []
        self.before: list[dict[str, torch.Tensor]] = []
        self.after: list[dict[str, torch.Tensor]] = []

    def on_client_update(self, trainer, module, visit, update) -> None:  # type: ignore[no-untyped-def]
        self.sent.append((visit.round, update))

    def on_aggregate(self, trainer, module, old, new) -> None:  # type: ignore[no-untyped-def]
        self.before.append({k: v.clone() for k, v in old.tensors().items()})
        self.after.append({k: v.clone() for k, v in new.tensors().items()})


@pytest.mark.parametrize("plus", [False, True], ids=["FedTT", "FedTT+"])
def test_counts_what_is_serialized(tmp_path: Path, plus: bool) -> None:
    messages = Messages()
    trainer, module, data, record = make_run(tmp_path, messages, plus=plus)
    trainer.fit(module, datamodule=data)
    communication = next(c for c in trainer.callbacks if isinstance(c, Communication))
    trained = [
        {f"core_{i}" for i in ((0, 1 + round % 3, 4) if plus else range(5))}
        for round in range(ROUNDS)
    ]
    total = 0
    for round, update in messages.sent:
        names = {name.removeprefix("net.") for name in update.schema.names}
        assert names == trained[round] | {"bias", "head.weight", "head.bias"}
        data_bytes = update.to_bytes()
        (flat,) = load(data_bytes).values()
        assert flat.numel() * 8 == update.schema.nbytes
        assert len(data_bytes) - update.schema.nbytes < 256
        total += len(data_bytes)
    assert len(messages.sent) == 3 * ROUNDS
    assert communication.uploaded_total == total
    metrics = record.rounds[ROUNDS - 1]
    assert metrics["comm/upload_bytes_total"] == total
    assert metrics["comm/download_bytes_total"] == communication.downloaded_total

    for round, (before, after) in enumerate(zip(messages.before, messages.after, strict=True)):
        for name, value in before.items():
            frozen = name.startswith("net.core_") and name[4:] not in trained[round]
            assert torch.equal(value, after[name]) == frozen, (round, name)


def test_a_client_downloads_what_changed_since_its_last_visit(tmp_path: Path) -> None:
    messages = Messages()
    trainer, module, data, _ = make_run(tmp_path, messages)
    trainer.fit(module, datamodule=data)
    loop = trainer.callbacks[0].loop  # type: ignore[attr-defined]
    expected, seen = 0, {}
    for round in range(ROUNDS):
        for visit in loop.planner.plan(round).visits:
            last = seen.get(visit.client)
            names = set(loop.schema.names)
            if last is not None:
                names = set().union(
                    *(loop.schedule.trained(loop.schema.names, r) for r in range(last, round))
                )
            state = AdapterState.capture(loop.tensors, loop.schema.select(names))
            expected += len(state.to_bytes())
            seen[visit.client] = round
    communication = next(c for c in trainer.callbacks if isinstance(c, Communication))
    assert communication.downloaded_total == expected


class Parcels(Callback):
    """Sends something of its own when a round starts and when a visit does."""

    def on_round_start(self, trainer, module, plan) -> None:  # type: ignore[no-untyped-def]
        find_communication(trainer).count_download(1000 + plan.round)  # type: ignore[union-attr]

    def on_client_start(self, trainer, module, visit, resumed) -> None:  # type: ignore[no-untyped-def]
        if not resumed:
            find_communication(trainer).count_upload(10 + visit.round)  # type: ignore[union-attr]


def test_counts_of_other_callbacks_in_any_order(tmp_path: Path) -> None:
    """Also after a resume inside a round; each round's bytes add up to the totals."""

    def rounds(order: str) -> list[dict[str, float]]:
        def build(*extra: Callback) -> Any:
            own = [] if order == "plain" else [Parcels(), Scaffold()]
            trainer, module, data, record = make_run(tmp_path / order, *own, *extra)
            if order == "before":
                trainer.callbacks.sort(key=lambda callback: callback not in own)  # type: ignore[attr-defined]
            return trainer, module, data, record

        path = tmp_path / f"{order}.ckpt"
        save = At(60, lambda trainer: trainer.save_checkpoint(path), end=True)
        trainer, module, data, record = build(save)
        trainer.fit(module, datamodule=data)
        trainer, module, data, resumed = build()
        trainer.fit(module, datamodule=data, ckpt_path=path)
        assert ROUNDS - 1 in resumed.rounds
        assert resumed.rounds == {round: record.rounds[round] for round in resumed.rounds}
        return [record.rounds[round] for round in range(ROUNDS)]

    each = [rounds(order) for order in ("plain", "after", "before")]
    for way, own in (("upload", lambda r: 3 * (10 + r)), ("download", lambda r: 1000 + r)):
        name, total = f"comm/{way}_bytes", 0.0
        for round, (without, after, before) in enumerate(zip(*each, strict=True)):
            # Beside the parcels three control variates, as long as what the clients send.
            assert after[name] == without[name] + own(round) + without["comm/upload_bytes"]
            assert before[name] == after[name]
            total += after[name]
            assert before[f"{name}_total"] == after[f"{name}_total"] == total
