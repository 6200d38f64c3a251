"""What the callbacks ask of a Trainer, its module and its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.nn import Parameter

from fedtt_lightning.data.client_data import ClientDataModule
from fedtt_lightning.federation import FreezingSchedule, TrainAll


@dataclass(frozen=True)
class Silo:
    """The processes that train a visit together, as data parallelism does, and this one of them.

    Attributes:
        index, count: which of the run's silos this is.
        rank, size: which of the silo's processes this is.
        group: the silo's torch.distributed group, None for all processes.
        exchange: a gloo group of all processes, where there are several silos.
        timeout: how long silos wait for each other.
    """

    index: int
    count: int
    rank: int
    size: int
    group: Any = None
    exchange: Any = None
    timeout: timedelta | None = None


def silo_of(trainer: Trainer) -> Silo:
    """Return this process's silo: all processes together, unless the strategy says otherwise."""
    silo = getattr(trainer.strategy, "silo", None)
    return silo if isinstance(silo, Silo) else Silo(0, 1, trainer.global_rank, trainer.world_size)


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


def freezing_schedules(trainer: Trainer) -> list[FreezingSchedule]:
    """Return the schedules of the callbacks that have one, such as FactorFreezing."""
    schedules = (getattr(callback, "schedule", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return [schedule for schedule in schedules if isinstance(schedule, FreezingSchedule)]


def freezing_schedule(trainer: Trainer) -> FreezingSchedule:
    """Return the schedule of the FactorFreezing callback, or that nothing is frozen."""
    schedules = freezing_schedules(trainer)
    return schedules[0] if schedules else TrainAll()


def private_names(trainer: Trainer, names: Sequence[str]) -> frozenset[str]:
    """Return the trainable names that callbacks keep with each client (hook `private_names`)."""
    private: set[str] = set()
    for callback in with_hook(trainer, "private_names"):
        private |= callback.private_names(names)
    return frozenset(private)


def client_data(trainer: Trainer) -> ClientDataModule:
    """Return the datamodule, which `check_fit` has found to know its clients."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ClientDataModule)
    return data
