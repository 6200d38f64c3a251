"""Server optimizers and robust rules inside a run: their formulas, and resume in mid-round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    AdapterState,
    CoordinateMedian,
    FedAdam,
    FedAvgM,
    FedYogi,
    Krum,
    MultiKrum,
    NormBoundedMean,
    TorchServer,
    TrimmedMean,
)
from toy_run import ROUNDS, At, make_run, outcome

COMBINATIONS: dict[str, Any] = {
    "FedAdam, median": lambda: (FedAdam(0.02), CoordinateMedian()),
    "torch Adam, Multi-Krum": lambda: (
        TorchServer(lambda p: torch.optim.Adam(p, lr=0.02)),
        MultiKrum(0, 2),
    ),
    "FedAvgM, bounded norms": lambda: (FedAvgM(0.8, 0.5), NormBoundedMean(0.3)),
    "FedYogi, trimmed mean": lambda: (FedYogi(0.02), TrimmedMean(1)),
}


def prepare(folder: Path, combination: Any, *extra: Callback, **options: Any) -> Any:
    trainer, module, data, record = make_run(folder, *extra, **options)
    server, aggregation = combination()
    vars(trainer.callbacks[0]).update(server=server, aggregation=aggregation)
    return trainer, module, data, record


@pytest.mark.parametrize("combination", COMBINATIONS.values(), ids=COMBINATIONS.keys())
def test_resumes_inside_a_round(tmp_path: Path, combination: Any) -> None:
    trainer, module, data, record = prepare(tmp_path / "whole", combination)
    trainer.fit(module, datamodule=data)
    whole = outcome(module, record)

    def stop(trainer: Trainer) -> None:
        raise RuntimeError("a power cut")

    trainer, module, data, _ = prepare(tmp_path / "cut", combination, At(34, stop))
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.fit(module, datamodule=data)
    loop = trainer.callbacks[0].loop
    assert loop.is_open and loop.round == 1 and loop.aggregation.count > 0
    trainer, module, data, record = prepare(tmp_path / "cut", combination)
    trainer.fit(module, datamodule=data, ckpt_path="last")
    assert outcome(module, record) == whole


class Recorder(Callback):
    """Keeps what clients sent and what the server made of it."""

    def __init__(self) -> None:
        self.sent: list[list[dict[str, Tensor]]] = []
        self.moved: list[dict[str, Tensor]] = []

    def on_round_start(self, trainer: Any, module: Any, plan: Any) -> None:
        self.sent.append([])

    def on_client_update(self, trainer: Any, module: Any, visit: Any, update: AdapterState) -> None:
        self.sent[-1].append(update.clone().tensors())

    def on_aggregate(self, trainer: Any, module: Any, old: Any, new: Any) -> None:
        self.moved.append(new.minus(old).clone().tensors())


def test_the_run_takes_the_steps_of_the_formulas(tmp_path: Path) -> None:
    """FedAdam on medians, with FedTT+: a factor that does not train stands still with its m, v."""
    recorder = Recorder()
    trainer, module, data, _ = prepare(tmp_path, COMBINATIONS["FedAdam, median"], recorder)
    trainer.fit(module, datamodule=data)
    memory: dict[str, tuple[Any, Any]] = {}
    for sent, moved in zip(recorder.sent, recorder.moved, strict=True):
        assert len(sent) == 3
        for name, actual in moved.items():
            if name not in sent[0]:
                assert not actual.any()
                continue
            median = np.median([update[name].numpy() for update in sent], axis=0)
            m, v = memory.get(name, (0.0, 1e-6))
            m, v = 0.9 * m + 0.1 * median, 0.99 * v + 0.01 * median**2
            memory[name] = m, v
            step = 0.02 * m / (np.sqrt(v) + 1e-3)
            np.testing.assert_allclose(actual.numpy(), step, rtol=0, atol=1e-14)
    assert len(recorder.moved) == ROUNDS


class Attacker(Callback):
    def on_client_update(self, trainer: Any, module: Any, visit: Any, update: AdapterState) -> Any:
        if visit.client != 0:
            return None
        return AdapterState(
            update.schema, {key: torch.full_like(b, 1e6) for key, b in update.buffers.items()}
        )


@pytest.mark.parametrize("robust", [True, False], ids=["median", "mean"])
def test_a_false_client_in_a_run(tmp_path: Path, robust: bool) -> None:
    trainer, module, data, _ = make_run(tmp_path, Attacker())
    rounds = trainer.callbacks[0]  # type: ignore[attr-defined]
    rounds.sampler.clients_per_round = None
    if robust:
        rounds.aggregation = CoordinateMedian()
    trainer.fit(module, datamodule=data)
    largest = max(float(p.detach().abs().max()) for p in module.parameters())
    assert (largest < 10) == robust


def test_too_few_clients(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path)
    trainer.callbacks[0].aggregation = Krum(1)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"needs 2·1 \+ 3 = 5 updates, not 3"):
        trainer.fit(module, datamodule=data)
