"""Optimizers and schedulers go back to where they began, in place, for each client."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fedtt_lightning.errors import ConfigError


class OptimizerReset:
    """Remembers the optimizers and schedulers as configured and restores them in place.

    In place keeps wrappers around an optimizer alive and does not call the module's
    `configure_optimizers` again; it is equal to making them anew.

    Raises:
        ConfigError: a scheduler that cannot work when clients start afresh.
    """

    def __init__(self, trainer: Trainer) -> None:
        check_schedulers(trainer.lr_scheduler_configs)
        self._trainer = trainer
        self._groups = [
            [_settings(group) for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]
        self._states = [  # empty but for optimizers, such as Adagrad, that fill it at once
            {parameter: deepcopy(state) for parameter, state in optimizer.state.items()}
            for optimizer in trainer.optimizers
        ]
        self._schedulers = [
            deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs
        ]

    def apply(self) -> None:
        """Forget all optimizer state and restore every hyper-parameter and scheduler."""
        for optimizer, groups, states in zip(
            self._trainer.optimizers, self._groups, self._states, strict=True
        ):
            optimizer.state.clear()
            optimizer.state.update({p: deepcopy(state) for p, state in states.items()})
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(deepcopy(settings))
        for config, state in zip(self._trainer.lr_scheduler_configs, self._schedulers, strict=True):
            config.scheduler.load_state_dict(deepcopy(state))

    def end_local_epoch(self) -> None:
        """Step the schedulers that count epochs: Lightning itself sees only the round's end."""
        for config in self._trainer.lr_scheduler_configs:
            if config.interval == "epoch":
                config.scheduler.step()  # type: ignore[call-arg]


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return deepcopy({key: value for key, value in group.items() if key != "params"})


def check_schedulers(configs: Sequence[LRSchedulerConfig]) -> None:
    """Raise ConfigError for a scheduler that cannot work when clients start afresh."""
    for config in configs:
        if isinstance(config.scheduler, ReduceLROnPlateau):
            raise ConfigError(
                "ReduceLROnPlateau follows a metric over rounds, but the optimizer starts "
                "afresh at each client: use a scheduler that depends on steps or epochs alone"
            )
        if config.frequency != 1:
            raise ConfigError(
                f"a learning-rate scheduler has frequency {config.frequency}, but steps are "
                "counted for each client anew: set lr_scheduler_config.frequency to 1"
            )
