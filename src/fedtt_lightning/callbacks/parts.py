"""What the callbacks ask of a Trainer, its module and its data."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.nn import Parameter

from fedtt_lightning.callbacks.factor_freezing import FactorFreezing
from fedtt_lightning.data.client_data import ClientDataModule
from fedtt_lightning.data.round_loader import batches_per_epoch
from fedtt_lightning.federation import ClientSampler, FreezingSchedule, RoundPlanner, TrainAll


def with_hook(trainer: Trainer, hook: str) -> list[Any]:
    """Return the callbacks that define one of the federation's hooks, in the Trainer's order."""
    return [callback for callback in trainer.callbacks if hasattr(callback, hook)]  # type: ignore[attr-defined]


def call_hook(trainer: Trainer, hook: str, module: LightningModule, *args: Any) -> None:
    """Call a hook of the federation on every callback that defines it."""
    for callback in with_hook(trainer, hook):
        getattr(callback, hook)(trainer, module, *args)


def trainable_parameters(module: LightningModule) -> dict[str, Parameter]:
    """Return what is federated: every parameter that requires gradients, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def freezing_schedule(trainer: Trainer) -> FreezingSchedule:
    """Return the schedule of the FactorFreezing callback, or that nothing is frozen."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, FactorFreezing):
            return callback.schedule
    return TrainAll()


def client_data(trainer: Trainer) -> ClientDataModule:
    """Return the datamodule, which `check_fit` has found to know its clients."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ClientDataModule)
    return data


def make_planner(
    trainer: Trainer,
    data: ClientDataModule,
    experiment: int,
    sampler: ClientSampler,
    local_epochs: int,
    local_steps: int | None,
) -> RoundPlanner:
    """Divide the data among the clients and plan rounds as the Trainer's settings say."""
    data.federate(experiment)
    world_size = trainer.world_size
    limit = trainer.limit_train_batches
    return RoundPlanner(
        experiment=experiment,
        sizes=data.clients.sizes,
        batches_per_epoch=lambda size: batches_per_epoch(size, data.loader, world_size),
        sampler=sampler,
        local_epochs=local_epochs,
        local_steps=local_steps,
        accumulate=trainer.accumulate_grad_batches,
        max_batches=limit if isinstance(limit, int) else None,
    )
