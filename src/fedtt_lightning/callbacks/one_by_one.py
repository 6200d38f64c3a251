"""Visits one after another: each client trains in the model's own parameters."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from fedtt_lightning.callbacks.lightning_private import (
    choose_optimizer_steps,
    restore_optimizer_steps,
    validate_once,
)
from fedtt_lightning.callbacks.optimizer_reset import OptimizerReset
from fedtt_lightning.callbacks.parts import call_hook, silo_of
from fedtt_lightning.callbacks.round_end import end_visit
from fedtt_lightning.federation import RoundPlanner, seed_all

if TYPE_CHECKING:
    from fedtt_lightning.callbacks.federated_rounds import FederatedRounds


class OneByOne:
    """Begins and ends the batches of visits that follow each other."""

    def __init__(
        self, federation: FederatedRounds, trainer: Trainer, module: LightningModule
    ) -> None:
        self._federation = federation
        self._reset = OptimizerReset(trainer)
        self._rank = silo_of(trainer).rank
        self._began = monotonic()
        choose_optimizer_steps(trainer, lambda batch: self._steps_after(trainer, batch))

    def begin_batch(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Let the client begin afresh with its first batch, and seed its step."""
        loop = self._federation.loop
        visit, step = loop.visit, loop.step
        if step == 0:
            self._began = monotonic()
            loop.open_visit()
            self._reset.apply()
            call_hook(trainer, "on_client_start", module, visit, False)
        seed_all(visit.seed_at(step, f"step {self._rank}"))

    def end_batch(self, trainer: Trainer, module: LightningModule, loss: Any) -> None:
        """Count the batch, and take the client's update after its last one."""
        federation, loop = self._federation, self._federation.loop
        visit, step = loop.visit, loop.step
        if isinstance(loss, Tensor):
            federation.loss.add_batch(loss * trainer.accumulate_grad_batches)
        if visit.ends_epoch(step):
            self._reset.end_local_epoch()
        loop.advance()
        if visit.is_last(step):
            end_visit(federation, trainer, module, visit, self._began)

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Go on inside a visit, whose weights and optimizer are restored already."""
        loop = self._federation.loop
        if loop.inside_visit:
            call_hook(trainer, "on_client_start", module, loop.visit, True)
            return
        plan = None if loop.is_open else loop.plan
        if plan is not None and plan.round == trainer.current_epoch and plan.visits:
            validate_once(trainer)

    def open(self, state: dict[str, Any] | None) -> RoundPlanner:
        """Return what plans the rounds: the loop's own."""
        return self._federation.loop.planner

    def end_round(self) -> RoundPlanner:
        """Return what plans the coming round: the same."""
        return self._federation.loop.planner

    def state_dict(self) -> dict[str, Any] | None:
        """Return nothing: the model and its optimizers hold a client's whole state."""
        return None

    def close(self, trainer: Trainer) -> None:
        """Leave the trainer as it was."""
        restore_optimizer_steps(trainer)

    def _steps_after(self, trainer: Trainer, batch: int) -> bool:
        loop = self._federation.loop
        plan = loop.local if loop.local is not None else loop.planner.plan(trainer.current_epoch)
        _, visit, step = plan.locate(batch)
        return visit.steps_optimizer(step, trainer.accumulate_grad_batches)
