"""What tells early that a federation goes wrong: clients that differ, pull apart or stay away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fedtt_lightning.callbacks.csv_file import write_csv
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.federation import RoundPlan, Visit

_NAMED_CLIENTS = 64


class EarlySigns(Callback):
    """Logs at each round's end how far the clients are apart and how often each took part.

    - `fed/loss_spread`: standard deviation (of the population) of the clients' mean training
      losses, `fed/loss_worst`: the largest of them.
    - `fed/drift`: ||sum_i p_i u_i|| / sum_i p_i ||u_i|| of the updates u_i that counted, with their
      weights p_i in the mean: 1 if all clients pull the same way, 0 if they cancel out, about
      1 / sqrt(n) if n clients weigh the same and their directions have nothing in common. For
      updates of one length it is 1 / B with the dissimilarity B of FedProx (Li et al. 2020,
      arXiv:1812.06127, definition 3), updates in place of gradients, and 1 / sqrt(n D) with the
      gradient diversity D (Yin et al. 2018, arXiv:1706.05699). The updates are those of the factors
      as they are sent, not of what the factors multiply to. Not logged where nothing moved.
    - `fed/visits_min`, `fed/visits_max`, `fed/clients_seen`: the fewest and most visits that a
      client had so far, and how many had one at all. In federations of up to 64 clients also
      `fed/visits/<client>`. A visit is one that was trained, whether or not its update counted.

    `participation.csv` in `default_root_dir` holds client, examples and visits at the end of `fit`.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._visits = torch.zeros(0, dtype=torch.int64)
        self._clear()

    def _clear(self) -> None:
        self._total: dict[str, Tensor] = {}
        self._norms = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            find_federation(trainer)
            if trainer.current_epoch == 0:
                self._forget()  # not the counts of an earlier fit

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        self._clear()
        if not len(self._visits):
            clients = len(find_federation(trainer).loop.planner.sizes)
            self._visits = torch.zeros(clients, dtype=torch.int64)

    def on_client_end(self, trainer: Trainer, pl_module: LightningModule, visit: Visit) -> None:
        """Count the visit and, if it was accepted, its update as it went into the aggregate."""
        loop = find_federation(trainer).loop
        self._visits[visit.client] += 1
        if loop.counted is None:
            return
        weight = loop.weight(visit)
        for dtype, buffer in loop.counted.buffers.items():
            weighted = buffer.double() * weight
            if dtype in self._total:
                self._total[dtype] = self._total[dtype].to(weighted.device) + weighted
            else:
                self._total[dtype] = weighted
        self._norms += weight * _norm(loop.counted.buffers)

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        federation = find_federation(trainer)
        values: dict[str, float] = {
            "fed/visits_min": int(self._visits.min()),
            "fed/visits_max": int(self._visits.max()),
            "fed/clients_seen": int((self._visits > 0).sum()),
        }
        if (losses := federation.loss.clients()) is not None:
            losses = losses.to(trainer.strategy.root_device)
            if federation.exchange is None:  # which has made one of the losses of a batch's parts
                losses = trainer.strategy.reduce(losses, reduce_op="mean")
            values["fed/loss_spread"] = float(losses.std(correction=0))
            values["fed/loss_worst"] = float(losses.max())
        if self._norms > 0:
            values["fed/drift"] = _norm(self._total) / self._norms
        if len(self._visits) <= _NAMED_CLIENTS:
            values |= {f"fed/visits/{c}": count for c, count in enumerate(self._visits.tolist())}
        for name, value in values.items():
            federation.log_round(pl_module, name, value)
        self._clear()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run or not len(self._visits):  # type: ignore[attr-defined]
            return
        sizes = find_federation(trainer).loop.planner.sizes.tolist()
        rows = zip(range(len(sizes)), sizes, self._visits.tolist(), strict=True)
        path = Path(trainer.default_root_dir) / "participation.csv"
        write_csv(path, ("client", "examples", "visits"), rows)

    def state_dict(self) -> dict[str, Any]:
        return {
            "visits": self._visits.clone(),
            "total": dict(self._total),
            "norms": self._norms,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._visits = state_dict["visits"].cpu().clone()
        self._total = dict(state_dict["total"])
        self._norms = state_dict["norms"]


def _norm(buffers: dict[str, Tensor]) -> float:
    """Return the Euclidean norm over all buffers."""
    return float(sum(float(buffer.double().square().sum()) for buffer in buffers.values())) ** 0.5
