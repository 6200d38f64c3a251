"""FedProx: clients are pulled back to the global adapter they began from."""

from __future__ import annotations

from math import isfinite

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.errors import ConfigError


class FedProx(Callback):
    """Adds the gradient of `mu/2 · ‖w − w_global‖²` to each client's loss.

    Li et al., arXiv 1812.06127. The gradient `mu · (w − w_global)` is added once before each
    optimizer step and before clipping, which is what the term does in the loss; with gradient
    accumulation it counts once, not once a batch. `w_global` is what the visit began from. Tensors
    without a gradient, such as frozen ones, and tensors that are private to the client are left
    alone. Works with any method, optimizer and aggregation; `mu: 0` changes no bit.

    Args:
        mu: weight of the proximal term, >= 0.

    Raises:
        ConfigError: from `setup`, if `mu` makes no sense or nothing is federated.
    """

    def __init__(self, mu: float = 0.01) -> None:
        self.mu = mu

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        find_federation(trainer)
        if not (self.mu >= 0 and isfinite(self.mu)):
            raise ConfigError(f"FedProx's mu is {self.mu}, but must be a number >= 0")

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if not hasattr(optimizer, "noise_multiplier"):  # or else on_private_gradient
            self._pull(trainer, optimizer)

    def on_private_gradient(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the term to gradients that have their noise: it depends on no example."""
        self._pull(trainer, trainer.optimizers[0])

    @torch.no_grad()
    def _pull(self, trainer: Trainer, optimizer: Optimizer) -> None:
        if self.mu == 0:
            return
        loop = find_federation(trainer).loop
        steps = {id(param) for group in optimizer.param_groups for param in group["params"]}
        for name, start in loop.start.tensors().items():
            param = loop.tensors[name]
            if param.grad is not None and id(param) in steps and name not in loop.private:
                param.grad.add_(param - start, alpha=self.mu)
