"""Federated averaging over Poisson batches in plain PyTorch, privately and not.

It shares with the library only the names of its random draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedtt_lightning.federation import seed_for
from plain_federation import PlainFederation


def poisson_batch(
    experiment: int, indices: np.ndarray, batches: int, round: int, client: int, step: int
) -> list[int]:
    rng = np.random.default_rng(seed_for(experiment, "poisson batch", round, client, step))
    count = int(rng.binomial(len(indices), 1 / batches))
    return indices[rng.choice(len(indices), count, replace=False)].tolist()  # type: ignore[no-any-return]


class PlainPoissonFederation(PlainFederation):
    """Without privacy: a step uses the batch's summed loss over the expected batch size."""

    def visit(
        self,
        model: nn.Module,
        params: dict[str, nn.Parameter],
        round: int,
        client: int,
        batch_loss: Callable[[nn.Module, list[int]], Tensor],
    ) -> None:
        model.train()
        optimizer = self.configure([*params.values()])
        indices = self.clients[client]
        batches = -(-len(indices) // self.batch_size)
        for step in range(self.local_epochs * batches):
            drawn = poisson_batch(self.experiment, indices, batches, round, client, step)
            optimizer.zero_grad()
            if drawn:
                (batch_loss(model, drawn) * len(drawn) * batches / len(indices)).backward()
            else:
                for p in params.values():
                    p.grad = torch.zeros_like(p)
            for name in self.frozen(round):
                params[name].grad = None
            optimizer.step()
        model.zero_grad()


@dataclass
class PlainPrivateFederation(PlainFederation):
    """DP-SGD, one example's backward at a time; `noise` multiplier and clip `bound` are of all."""

    noise: float = 0.0
    bound: float = 1.0

    def visit(
        self,
        model: nn.Module,
        params: dict[str, nn.Parameter],
        round: int,
        client: int,
        batch_loss: Callable[[nn.Module, list[int]], Tensor],
    ) -> None:
        model.train()
        optimizer = self.configure([*params.values()])
        indices = self.clients[client]
        batches = -(-len(indices) // self.batch_size)
        trained = [p for name, p in params.items() if name not in self.frozen(round)]
        for step in range(self.local_epochs * batches):
            drawn = poisson_batch(self.experiment, indices, batches, round, client, step)
            total = [torch.zeros_like(p) for p in trained]
            for index in drawn:
                model.zero_grad()
                batch_loss(model, [index]).backward()
                grads = [p.grad for p in trained]
                norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads]))
                for sum_, grad in zip(total, grads, strict=True):
                    sum_.add_(grad, alpha=min(1.0, self.bound / (float(norm) + 1e-6)))
            noise = np.random.default_rng(seed_for(self.experiment, "noise", round, client, step))
            size = sum(p.numel() for p in trained)
            std = self.noise * self.bound
            if std:
                draw = torch.from_numpy(noise.standard_normal(size) * std).to(total[0].dtype)
                parts = draw.split([p.numel() for p in trained])
                for sum_, part in zip(total, parts, strict=True):
                    sum_.add_(part.view_as(sum_))
            model.zero_grad()
            for p, sum_ in zip(trained, total, strict=True):
                p.grad = sum_ / (len(indices) / batches)
            optimizer.step()
        model.zero_grad()
