"""A callback that measures what averaging factor by factor misses of the mean operator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.federation import AdapterState, Visit
from fedtt_lightning.federation.freezing import factor_groups
from fedtt_lightning.tensor_train.chains import left_chain


class OperatorGap(Callback):
    """Writes, for each round, how far the new operators lie from the mean of the clients'.

    `gaps.json` in `trainer.default_root_dir` lists, a round each, the Frobenius distance over all
    trains together, relative to the norm of the mean operator (`of_operator`) and to that of the
    round's change, mean minus old (`of_change`). Operators are multiplied out, in float64.
    """

    def __init__(self) -> None:
        self._mean: dict[str, Tensor] = {}
        self._weight = 0.0
        self._gaps: list[dict[str, float]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._gaps = []

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, plan: Any) -> None:
        self._mean, self._weight = {}, 0.0

    def on_client_update(
        self, trainer: Trainer, pl_module: LightningModule, visit: Visit, update: AdapterState
    ) -> None:
        start = find_federation(trainer).loop.start
        assert start is not None
        change = update.tensors()
        reached = {
            name: value.double() + change.get(name, 0) for name, value in start.tensors().items()
        }
        self._weight += visit.num_examples
        for prefix, operator in operators(reached).items():
            total = self._mean.setdefault(prefix, torch.zeros_like(operator))
            total.add_(operator, alpha=visit.num_examples)

    def on_aggregate(
        self, trainer: Trainer, pl_module: LightningModule, old: AdapterState, new: AdapterState
    ) -> None:
        before, after = operators(old.tensors()), operators(new.tensors())
        mean = {prefix: total / self._weight for prefix, total in self._mean.items()}
        miss = _norm({prefix: after[prefix] - mean[prefix] for prefix in mean})
        change = _norm({prefix: mean[prefix] - before[prefix] for prefix in mean})
        self._gaps.append({"of_operator": miss / _norm(mean), "of_change": miss / change})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (Path(trainer.default_root_dir) / "gaps.json").write_text(json.dumps(self._gaps))


def operators(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of each tensor train's operator, multiplied out in float64, by prefix."""
    return {
        prefix: left_chain([tensors[name].double() for name in names])
        for prefix, names in factor_groups(list(tensors)).items()
    }


def _norm(parts: Mapping[str, Tensor]) -> float:
    return float(torch.stack([part.square().sum() for part in parts.values()]).sum().sqrt())
