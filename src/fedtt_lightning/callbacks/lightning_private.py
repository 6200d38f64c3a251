"""The only places where Lightning's private attributes are touched, each with a fallback.

Seen in lightning 2.6.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import Optimizer

from fedtt_lightning.errors import ConfigError


def choose_optimizer_steps(trainer: Trainer, steps_after: Callable[[int], bool]) -> None:
    """Let `steps_after(batch of the round)` decide when accumulated gradients are used.

    Lightning counts accumulation over its epoch, which here is a round: a window would reach from
    one client into the next. Without accumulation there is nothing to decide.

    Raises:
        ConfigError: this Lightning has no such decision to override.
    """
    if trainer.accumulate_grad_batches == 1:
        return
    epoch_loop = trainer.fit_loop.epoch_loop
    optimization = epoch_loop.automatic_optimization
    accumulates = getattr(epoch_loop, "_should_accumulate", None)
    zero_grad_fn = getattr(optimization, "_make_zero_grad_fn", None)
    if accumulates is None or zero_grad_fn is None:
        raise ConfigError(
            "trainer.accumulate_grad_batches > 1 is not possible with this version of lightning"
        )

    def should_accumulate() -> bool:
        batch = epoch_loop.batch_progress.current.ready - 1
        return bool(accumulates()) if batch < 0 else not steps_after(batch)

    def make_zero_grad_fn(batch: int, optimizer: Optimizer) -> Any:
        starts_window = batch == 0 or steps_after(batch - 1)
        return zero_grad_fn(0 if starts_window else 1, optimizer)

    epoch_loop._should_accumulate = should_accumulate  # type: ignore[method-assign]
    optimization._make_zero_grad_fn = make_zero_grad_fn  # type: ignore[method-assign,assignment]


def restore_optimizer_steps(trainer: Trainer) -> None:
    """Undo `choose_optimizer_steps`."""
    trainer.fit_loop.epoch_loop.__dict__.pop("_should_accumulate", None)
    trainer.fit_loop.epoch_loop.automatic_optimization.__dict__.pop("_make_zero_grad_fn", None)


def validate_empty_epoch(trainer: Trainer) -> None:
    """Validate in an epoch that has no batch, and let its metrics be a step of the loggers.

    Lightning validates after an epoch's last batch, and numbers what it logs by batches. Callbacks
    that monitor a metric expect it in every epoch, the first one too.
    """
    every = trainer.check_val_every_n_epoch
    epoch_loop = trainer.fit_loop.epoch_loop
    if trainer.enable_validation and every and (trainer.current_epoch + 1) % every == 0:
        trainer.validating = True
        epoch_loop.val_loop.run()
        trainer.training = True
    if hasattr(epoch_loop, "_batches_that_stepped"):
        epoch_loop._batches_that_stepped += 1


def prepare_batch(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """Convert a batch and move it to the device, as Lightning's loops do before a step."""
    batch = trainer.precision_plugin.convert_input(batch)
    if (before := getattr(module, "_on_before_batch_transfer", None)) is not None:
        batch = before(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def mark_round_unfinished(checkpoint: dict[str, Any]) -> None:
    """Make a checkpoint written after a stop inside a round resume in that round.

    When `max_steps`, `max_time` or `should_stop` end training, Lightning counts the epoch as
    processed however far it came. Undone, the checkpoint looks like one written between batches.
    """
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress")
    if not progress:
        return
    for count in (progress["current"], progress["total"]):
        count["processed"] = min(count["processed"], count["ready"] - 1)
        count["completed"] = min(count["completed"], count["processed"])


def mark_between_rounds(checkpoint: dict[str, Any]) -> None:
    """Make a checkpoint written at an epoch's end, or before its first batch, resume there.

    Lightning takes the batches of the epoch before, which it still holds, for those of the coming
    one, and with `max_steps` it ends an epoch twice.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    epochs, batches = loops.get("epoch_progress"), loops.get("epoch_loop.batch_progress")
    if not epochs or not batches:
        return
    now = epochs["current"]
    if now["processed"] < now["started"]:
        return
    for count in (now, epochs["total"]):
        count["completed"] = count["processed"]
    batches["is_last_batch"] = False
    batches["current"] = dict.fromkeys(batches["current"], 0)


def saves_inside_rounds(callback: ModelCheckpoint) -> bool:
    """Tell whether a ModelCheckpoint is triggered by steps or time instead of epochs."""
    every_steps = getattr(callback, "_every_n_train_steps", 0) or 0
    return every_steps > 0 or getattr(callback, "_train_time_interval", None) is not None


def is_compiled(module: LightningModule) -> bool:
    """Tell whether a module came to `fit` through torch.compile, or has parts that did."""
    if getattr(module, "_compiler_ctx", None) is not None:
        return True
    marks = ("_compiled_call_impl", "_orig_mod")  # torch's own, of module.compile() and of wrappers
    return any(getattr(part, mark, None) for part in module.modules() for mark in marks)
