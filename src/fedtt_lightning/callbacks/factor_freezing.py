"""Freezing by round: FedTT+ and every other schedule of what trains when."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import Parameter
from torch.optim import Optimizer

from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.federation import FreezingSchedule, RotatingFactor, Visit


class FactorFreezing(Callback):
    """Trains, in each round, only the tensors a schedule names; only these travel.

    Frozen tensors keep `requires_grad=True`, as data-parallel training needs, but their gradients
    are dropped before clipping and before the optimizer, so that neither gradient, momentum nor
    weight decay moves them.

    Args:
        schedule: which tensors train in which round; FedTT+'s rotation of the middle factor if
            not given.
    """

    def __init__(self, schedule: FreezingSchedule | None = None) -> None:
        self.schedule = schedule or RotatingFactor()
        self._frozen: list[Parameter] = []

    def on_client_start(
        self, trainer: Trainer, pl_module: LightningModule, visit: Visit, resumed: bool
    ) -> None:
        """Look up the parameters that stay frozen during the visit."""
        trained = find_federation(trainer).loop.trained
        self._frozen = [
            parameter
            for name, parameter in pl_module.named_parameters()
            if parameter.requires_grad and name not in trained
        ]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        for parameter in self._frozen:
            parameter.grad = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._frozen = []
