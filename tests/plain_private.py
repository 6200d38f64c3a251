"""DP-SGD inside federated averaging in plain PyTorch, one example's backward at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedtt_lightning.federation import seed_for
from plain_federation import PlainFederation


@dataclass
class PlainPrivateFederation(PlainFederation):
    """`noise` and `bound` are the noise multiplier and the clip of every client."""

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
            keys = (round, client, step)
            rng = np.random.default_rng(seed_for(self.experiment, "poisson batch", *keys))
            count = int(rng.binomial(len(indices), 1 / batches))
            drawn = indices[rng.choice(len(indices), count, replace=False)]
            total = [torch.zeros_like(p) for p in trained]
            for index in drawn.tolist():
                model.zero_grad()
                batch_loss(model, [index]).backward()
                grads = [p.grad for p in trained]
                norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads]))
                for sum_, grad in zip(total, grads, strict=True):
                    sum_.add_(grad, alpha=min(1.0, self.bound / (float(norm) + 1e-6)))
            noise = np.random.default_rng(seed_for(self.experiment, "noise", *keys))
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
