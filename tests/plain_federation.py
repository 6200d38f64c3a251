"""Federated averaging in plain PyTorch: the independent reference of the exactness tests.

It shares with the library only the names of its random draws (`seed_for`).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedtt_lightning.federation import seed_for


@dataclass
class PlainFederation:
    """Options of the reference; `frozen(round)` names what does not train in a round.

    `private` names what stays with the clients; `own` then holds what each of them has.
    """

    experiment: int
    clients: Sequence[np.ndarray]
    rounds: int
    batch_size: int
    configure: Callable[[list[nn.Parameter]], Any]
    local_epochs: int = 1
    clients_per_round: int | None = None
    clip: float | None = None
    accumulate: int = 1
    server_lr: float = 1.0
    frozen: Callable[[int], set[str]] = lambda round: set()
    private: Sequence[str] = ()
    own: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def run(
        self,
        model: nn.Module,
        batch_loss: Callable[[nn.Module, list[int]], Tensor],
    ) -> dict[str, Tensor]:
        """Train `model` in place and return its trainable parameters by name."""
        params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for round in range(self.rounds):
            start = {name: p.detach().clone() for name, p in params.items()}
            stays = {*self.frozen(round), *self.private}
            trained = [name for name in params if name not in stays]
            total = {n: torch.zeros_like(start[n], dtype=torch.float64) for n in trained}
            weight = 0.0
            for client in self.cohort(round):
                with torch.no_grad():
                    for name, p in params.items():
                        p.copy_(self.own.get(client, {}).get(name, start[name]))
                self.visit(model, params, round, client, batch_loss)
                self.own[client] = {n: params[n].detach().clone() for n in self.private}
                size = float(len(self.clients[client]))
                for name in trained:
                    update = params[name].detach().double() - start[name].double()
                    total[name] += size * update
                weight += size
            with torch.no_grad():
                for name, p in params.items():
                    p.copy_(start[name])
                for name in trained if weight else ():
                    mean = total[name] / weight
                    params[name].copy_(start[name].double() + self.server_lr * mean)
        return {name: p.detach().clone() for name, p in params.items()}

    def cohort(self, round: int) -> list[int]:
        if self.clients_per_round is None:
            return list(range(len(self.clients)))
        rng = np.random.default_rng(seed_for(self.experiment, "cohort", round))
        return sorted(rng.choice(len(self.clients), self.clients_per_round, replace=False).tolist())

    def visit(
        self,
        model: nn.Module,
        params: dict[str, nn.Parameter],
        round: int,
        client: int,
        batch_loss: Callable[[nn.Module, list[int]], Tensor],
    ) -> None:
        model.train()
        optimizer, step_schedulers, epoch_schedulers = _unpack(self.configure([*params.values()]))
        seed = seed_for(self.experiment, "visit", round, client)
        step = 0
        for epoch in range(self.local_epochs):
            rng = np.random.default_rng(seed_for(seed, "order", epoch))
            order = rng.permutation(self.clients[client]).tolist()
            batches = [
                order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)
            ]
            optimizer.zero_grad()
            for i, batch in enumerate(batches):
                key = seed_for(seed, "step 0", step)
                random.seed(key)
                np.random.seed(key & 0xFFFFFFFF)
                torch.manual_seed(key)
                (batch_loss(model, batch) / self.accumulate).backward()
                step += 1
                if (i + 1) % self.accumulate and i + 1 < len(batches):
                    continue
                for name in self.frozen(round):
                    params[name].grad = None
                if self.clip is not None:
                    torch.nn.utils.clip_grad_norm_(params.values(), self.clip)
                optimizer.step()
                optimizer.zero_grad()
                for scheduler in step_schedulers:
                    scheduler.step()
            for scheduler in epoch_schedulers:
                scheduler.step()


def _unpack(configured: Any) -> tuple[torch.optim.Optimizer, list[Any], list[Any]]:
    """Split what `configure_optimizers` may return into optimizer, step and epoch schedulers."""
    if not isinstance(configured, dict):
        return configured, [], []
    config = configured["lr_scheduler"]
    steps = config.get("interval") == "step"
    schedulers = [config["scheduler"]]
    return configured["optimizer"], schedulers if steps else [], [] if steps else schedulers


def copy_of(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module)
