"""The end of a visit and of a round, also of one in which nobody trains here."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from fedtt_lightning.callbacks.exchange import VisitResult
from fedtt_lightning.callbacks.lightning_private import validate_empty_epoch
from fedtt_lightning.callbacks.parts import call_hook, trainable_parameters, with_hook
from fedtt_lightning.callbacks.round_loss import RoundLoss
from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import AdapterState, RoundPlan, Visit

if TYPE_CHECKING:
    from fedtt_lightning.callbacks.federated_rounds import FederatedRounds


def coming_plan(federation: FederatedRounds, trainer: Trainer) -> RoundPlan:
    """Return what trains here in the coming round, with the batches that are left of it."""
    assert federation._planner is not None
    plan = federation._planner.plan(trainer.current_epoch)
    if federation.exchange is not None and not plan.skipped:
        plan = federation.exchange.share(trainer, plan)[1]
    state: dict[str, Any] = (federation._saved or {}).get("loop", {"round": -1})
    if (loop := federation._loop) is not None:
        state = {"round": loop.round, "is_open": loop.is_open, "position": loop.position}
    start = 0
    if state["round"] == plan.round:
        start = state["position"] if state["is_open"] else plan.num_batches
    return replace(plan, start=start)


def open_round(federation: FederatedRounds, trainer: Trainer, module: LightningModule) -> RoundPlan:
    """Open the round of the trainer's epoch and return its plan.

    Raises:
        FederationError: other parameters are trainable than at the start.
    """
    loop = federation.loop
    if trainable_parameters(module).keys() != loop.tensors.keys():
        raise FederationError(
            "requires_grad of parameters changed during fit, but only those that were "
            "trainable at its start are federated: freeze by rounds with FactorFreezing"
        )
    plan = loop.open_round(trainer.current_epoch)
    if federation.exchange is not None and not plan.skipped:
        plan, loop.local = federation.exchange.share(trainer, plan)
        loop.plan = plan
    federation.loss = RoundLoss()
    call_hook(trainer, "on_round_start", module, plan)
    return plan


def end_visit(
    federation: FederatedRounds,
    trainer: Trainer,
    module: LightningModule,
    visit: Visit,
    began: float | None = None,
) -> None:
    """Take the client's update, and count it unless it has to wait for those from elsewhere.

    `began` is when the visit did, as `time.monotonic` tells it.
    """
    call_hook(trainer, "on_client_trained", module, visit)
    federation.extra = {}
    for callback in with_hook(trainer, "client_extra"):
        federation.extra |= callback.client_extra(trainer, module, visit)
    loop = federation.loop
    update = loop.close_visit()
    if federation.exchange is None:
        _settle(federation, trainer, module, visit, update)
        return
    loss = federation.loss.take_visit()  # waits for the device, so before the clock is read
    seconds = 0.0 if began is None else monotonic() - began
    result = VisitResult(visit, update, loss, loop.private_state, seconds, federation.extra)
    federation.results.append(result)


def _settle(
    federation: FederatedRounds,
    trainer: Trainer,
    module: LightningModule,
    visit: Visit,
    update: AdapterState | None,
) -> None:
    """Let callbacks change an update, send it, and count what arrives."""
    if update is None:
        federation.loop.counted = None
        federation.loss.end_visit(visit.num_examples)
        call_hook(trainer, "on_client_end", module, visit)
        return
    for callback in with_hook(trainer, "on_client_update"):
        update = callback.on_client_update(trainer, module, visit, update) or update
    if federation.exchange is None or not federation.exchange.received:
        update = federation.channel.send(trainer, federation.loop, visit, update)
    if federation.loop.accept(visit, update):
        federation.loss.end_visit(visit.num_examples)
    else:
        federation.loss.end_visit(0)
        rank_zero_warn(
            f"client {visit.client} is left out of round {visit.round + 1}: its update holds "
            "NaN or Inf"
        )
    call_hook(trainer, "on_client_end", module, visit)


def end_round(federation: FederatedRounds, trainer: Trainer, module: LightningModule) -> None:
    """Aggregate what was counted, after all results have come together, and log the round."""
    loop, exchange = federation.loop, federation.exchange
    if exchange is not None:
        results, federation.results = federation.results, []
        for result in exchange.gather(trainer, module, results):
            loop.start, loop.private_state = loop.adapter_for(result.visit.client), result.private
            federation.extra = result.extra
            if result.loss is not None:
                device = trainer.strategy.root_device
                loss = torch.tensor(result.loss, dtype=torch.float64, device=device)
                federation.loss.add_batch(loss)
            _settle(federation, trainer, module, result.visit, result.update)
    old, count = loop.adapter.clone(), loop.aggregation.count
    if exchange is not None and not exchange.aggregates:
        loop.is_open = False
        loop.aggregation.reset()
    elif (new := loop.close_round()) is not None:
        call_hook(trainer, "on_aggregate", module, old, new)
    else:
        count = 0
    log_round_end(federation, trainer, module, count)


def run_empty_epoch(federation: FederatedRounds, trainer: Trainer, module: LightningModule) -> None:
    """Run a round in which nobody trains here, all in its epoch's first hook.

    It has too few clients to take place, or all of them train elsewhere.
    """
    loop = federation.loop
    if loop.round != trainer.current_epoch:  # else a checkpoint was written in this very hook
        if open_round(federation, trainer, module).skipped:
            old = loop.adapter.clone()
            if (new := loop.close_empty()) is not None:
                call_hook(trainer, "on_aggregate", module, old, new)
            log_round_end(federation, trainer, module, 0)
        else:
            end_round(federation, trainer, module)
    validate_empty_epoch(trainer)


def log_round_end(
    federation: FederatedRounds, trainer: Trainer, module: LightningModule, clients: int
) -> None:
    """Log the round's numbers; `clients` is how many updates went into the adapter."""
    loop = federation.loop
    assert loop.plan is not None
    values: dict[str, float] = {
        "fed/clients": clients,
        "fed/clients_rejected": len(loop.rejected),
    }
    served = federation.exchange is not None and federation.exchange.received
    if served or federation.failures is not None:
        values["fed/clients_dropped"] = len(loop.plan.dropped)
        values["fed/clients_late"] = len(loop.plan.late)
    if (loss := federation.loss.mean()) is not None:
        if federation.exchange is None:  # which has made one of the losses of a batch's parts
            loss = loss.to(trainer.strategy.root_device)  # a resumed run's may be on the CPU
            loss = trainer.strategy.reduce(loss, reduce_op="mean")
        values["fed/train_loss"] = float(loss)
    values |= loop.aggregation.metrics()
    for name, value in values.items():
        federation.log_round(module, name, value)
    call_hook(trainer, "on_round_end", module, loop.plan)
