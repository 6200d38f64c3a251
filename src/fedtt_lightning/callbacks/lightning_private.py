"""The only places where Lightning's private attributes are touched, each with a fallback.

Seen in lightning 2.6.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from torch.optim import Optimizer

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import RoundPlan

_NOTED = "_fedtt_sigterm"


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


def validate_once(trainer: Trainer) -> None:
    """Let a run that goes on after a round's last batch see that batch as the last of its own.

    The checkpoint counts the batches of the process that wrote it, which other silos may share out
    in another way.
    """
    current = trainer.fit_loop.epoch_loop.batch_progress.current
    for count in ("ready", "started", "processed", "completed"):
        if hasattr(current, count):
            setattr(current, count, int(trainer.num_training_batches))


def defer_sigterm(trainer: Trainer) -> None:
    """Let a SIGTERM be noted only: processes that train different batches would wait for it.

    Lightning broadcasts it before every batch and from its handler.
    """
    epoch_loop, signals = trainer.fit_loop.epoch_loop, getattr(trainer, "_signal_connector", None)
    if hasattr(epoch_loop, "_broadcast_sigterm_tensor"):
        epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    if not hasattr(signals, "_sigterm_notifier_fn"):
        return

    def note(signum: Any, _: Any) -> None:
        if not getattr(signals, _NOTED, False) and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signum)  # tell those it has started
        setattr(signals, _NOTED, True)

    setattr(signals, _NOTED, False)
    signals._sigterm_notifier_fn = note  # type: ignore[union-attr]


def hear_sigterm(trainer: Trainer, sent: bool) -> bool:
    """Return whether this process was sent a SIGTERM; if one was `sent`, stop after the epoch."""
    signals = getattr(trainer, "_signal_connector", None)
    if sent and signals is not None:
        signals.received_sigterm = True
    return bool(getattr(signals, _NOTED, False))


def reduced_at_epoch_end(trainer: Trainer) -> list[str]:
    """Return what training has logged since the epoch's start that will then wait for everybody."""
    results = getattr(trainer.fit_loop.epoch_loop, "_results", None) or {}
    return [
        result.meta.name
        for result in results.values()
        if result.meta.on_epoch
        and not result.has_reset
        and (result.meta.sync.should or getattr(result.value, "sync_on_compute", False))
    ]


def stop_deferring(trainer: Trainer) -> None:
    """Undo `defer_sigterm`."""
    trainer.fit_loop.epoch_loop.__dict__.pop("_broadcast_sigterm_tensor", None)
    if (signals := getattr(trainer, "_signal_connector", None)) is not None:
        for name in ("_sigterm_notifier_fn", _NOTED):
            vars(signals).pop(name, None)


def count_elsewhere(trainer: Trainer, steps: int, plan: RoundPlan, own: RoundPlan) -> None:
    """Count what other processes trained of a round, so that all are at the step of one process.

    Called after the round's last batch, or in the epoch's first hook if nothing trained here.

    Args:
        steps: optimizer steps of the others.
        plan, own: the round, and what of it this process trained.
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    if trainer.lightning_module.automatic_optimization:
        epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.increment_by(steps)
    else:
        epoch_loop.manual_optimization.optim_step_progress.total.increment_by(steps)
    epoch_loop.batch_progress.total.increment_by(plan.num_batches - own.num_batches)
    if hasattr(epoch_loop, "_batches_that_stepped"):  # the last batch is yet to be counted here
        accumulate = trainer.accumulate_grad_batches
        stepped = plan.optimizer_steps(accumulate) - own.optimizer_steps(accumulate)
        epoch_loop._batches_that_stepped += stepped - (not own.visits)


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


def stops_inside_rounds(timer: Timer) -> bool:
    """Tell whether a Timer looks at the time after every batch."""
    return getattr(timer, "_interval", "step") != "epoch" and timer.time_remaining() is not None


def is_compiled(module: LightningModule) -> bool:
    """Tell whether a module came to `fit` through torch.compile, or has parts that did."""
    if getattr(module, "_compiler_ctx", None) is not None:
        return True
    marks = ("_compiled_call_impl", "_orig_mod")  # torch's own, of module.compile() and of wrappers
    return any(getattr(part, mark, None) for part in module.modules() for mark in marks)
