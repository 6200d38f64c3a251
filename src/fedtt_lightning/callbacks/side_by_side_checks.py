"""What clients side by side cannot work with; each reason with the key to change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from fedtt_lightning.callbacks.lightning_private import is_compiled
from fedtt_lightning.federation import FreezingSchedule

if TYPE_CHECKING:
    from fedtt_lightning.callbacks.federated_rounds import FederatedRounds

_ALONE = "federation.cohort_batch"
# They would see all clients' gradients, or none, where they expect those of one.
_HOOKS = (
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


def side_by_side_problems(
    settings: FederatedRounds, trainer: Trainer, module: LightningModule
) -> Iterator[str]:
    """Give a line for everything that must happen to one client at a time."""
    size = settings.cohort_batch
    if size != "auto" and size < 1:
        yield f"federation.cohort_batch is {size}, but must be >= 1, or auto"
    if size == 1:
        return
    if settings.ranks is not None:
        yield f"federation.ranks needs {_ALONE} 1: shapes differ from client to client"
    if getattr(getattr(trainer, "datamodule", None), "packing", False):
        yield f"data.packing puts examples of several clients into a row, and needs {_ALONE} 1"
    yield from _trainer(trainer)
    yield from _module(module)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = type(callback).__name__
        if isinstance(getattr(callback, "schedule", None), FreezingSchedule):
            continue  # it drops gradients of what does not train, which here has none
        if hasattr(callback, "private_names"):
            yield f"{name} keeps tensors with each client, which needs {_ALONE} 1"
        for hook in ("on_after_backward", "on_before_optimizer_step"):
            if getattr(type(callback), hook) is not getattr(Callback, hook):
                yield (
                    f"{name} in trainer.callbacks uses each client's gradients ({hook}), which "
                    f"needs {_ALONE} 1"
                )


def _trainer(trainer: Trainer) -> Iterator[str]:
    if trainer.accumulate_grad_batches != 1:
        yield (
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, which needs "
            f"{_ALONE} 1: set it to 1 and data.batch_size to the batch of a step"
        )
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        yield (
            f"trainer.strategy {type(trainer.strategy).__name__} needs {_ALONE} 1: use one device"
        )
    if trainer.precision == "16-mixed":
        yield f"trainer.precision 16-mixed scales all clients' losses alike and needs {_ALONE} 1"


def _module(module: LightningModule) -> Iterator[str]:
    name = type(module).__name__
    if not module.automatic_optimization:
        yield f"{name}.automatic_optimization is False, which needs {_ALONE} 1"
    if is_compiled(module):
        yield f"{name} is compiled (torch.compile), which needs {_ALONE} 1"
    for hook in _HOOKS:
        if is_overridden(hook, module):
            yield f"{name}.{hook} acts on one client's gradients or optimizer and needs {_ALONE} 1"
    for path, part in module.named_modules():
        if getattr(part, "gradient_checkpointing", False):
            yield (
                f"{path or name} recomputes activations (gradient checkpointing), which needs "
                f"{_ALONE} 1: turn it off"
            )
