"""What those who train one adapter together must have set alike, and whether processes have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer

from fedtt_lightning.callbacks.parts import client_data
from fedtt_lightning.callbacks.run_state import run_settings, stable_repr
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.loop_state import visit_rows

if TYPE_CHECKING:
    from fedtt_lightning.callbacks.federated_rounds import FederatedRounds

_ROUNDS = 3  # whose visits are compared


def shared_settings(federation: FederatedRounds, trainer: Trainer) -> dict[str, str]:
    """Return what is the same wherever clients train, by what a user would change.

    There from `on_fit_start` of FederatedRounds on.
    """
    loop = federation.loop
    planner = loop.planner
    return run_settings(loop) | {
        "model, with the same method,": f"trainable tensors {loop.schema.digest[:12]}",
        "federation.seed": f"seed {planner.experiment}",
        "federation.upload": f"upload {stable_repr(federation.upload)}",
        "federation.local_epochs and federation.local_steps": (
            f"local_epochs {planner.local_epochs} and local_steps {planner.local_steps}"
        ),
        "trainer.max_epochs": f"{trainer.max_epochs} rounds",
        "trainer.accumulate_grad_batches": f"accumulate_grad_batches {planner.accumulate}",
        "data.batch_size, data.group_by_length and data.drop_last": planner.batching,
    }


def check_processes(federation: FederatedRounds, trainer: Trainer) -> None:
    """Raise ConfigError, in all processes, if they were started for different runs.

    Called in `on_fit_start`, when optimizers are made and a checkpoint is read.
    """
    if trainer.world_size == 1:
        return
    loop = federation.loop
    planner = loop.planner
    plans = [planner.plan(round) for round in range(min(_ROUNDS, trainer.max_epochs or 0))]
    check_same(
        trainer,
        shared_settings(federation, trainer)
        | {
            "data": client_data(trainer).partition_table(),
            "federation.sampler and federation.failures": str([visit_rows(p) for p in plans]),
            "federation.min_clients": f"{planner.min_clients} {loop.below_min_clients}",
            "model.lr and other options of optimizers": optimizer_options(trainer.optimizers),
            "trainer.precision": str(trainer.precision),
            "trainer.gradient_clip_val": str(trainer.gradient_clip_val),
            "ckpt_path": f"round {loop.round}",
        },
    )


def optimizer_options(optimizers: Sequence[Optimizer]) -> str:
    """Write down what optimizers were given, wherever it lies: `lr` may be a tensor on a device."""
    groups = [(type(made).__name__, group) for made in optimizers for group in made.param_groups]
    values = [
        (kind, {name: _number(group[name]) for name in group if name != "params"})
        for kind, group in groups
    ]
    return stable_repr(values)


def _number(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def check_same(trainer: Trainer, settings: Mapping[str, str]) -> None:
    """Raise ConfigError, in all processes, if the settings of any are not those of the first.

    Args:
        settings: by what a user would change; the same keys in all processes.
    """
    hashes = [sha256(value.encode()).digest()[:8] for value in settings.values()]
    numbers = [int.from_bytes(value, "big", signed=True) for value in hashes]
    ours = torch.tensor(numbers, device=trainer.strategy.root_device)
    everywhere = trainer.strategy.all_gather(ours).view(-1, len(settings))
    differ = everywhere != everywhere[0]
    if bool(differ.any()):
        keys = [key for key, other in zip(settings, differ.any(0).tolist(), strict=True) if other]
        ranks = [str(rank) for rank, other in enumerate(differ.any(1).tolist()) if other]
        raise ConfigError(
            f"the processes of rank 0 and {', '.join(ranks)} differ in {'; '.join(keys)}: start "
            "all of them with the same config, data and checkpoint"
        )
