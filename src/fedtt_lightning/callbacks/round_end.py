"""What happens when a client's visit ends, when a round does, and when it does not take place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from fedtt_lightning.callbacks.lightning_private import validate_empty_epoch
from fedtt_lightning.callbacks.parts import call_hook, with_hook
from fedtt_lightning.callbacks.round_loss import RoundLoss
from fedtt_lightning.federation import Visit

if TYPE_CHECKING:
    from fedtt_lightning.callbacks.federated_rounds import FederatedRounds


def end_visit(
    federation: FederatedRounds, trainer: Trainer, module: LightningModule, visit: Visit
) -> None:
    """Take the client's update, let callbacks change it, send it, and count what arrives."""
    call_hook(trainer, "on_client_trained", module, visit)
    update = federation.loop.close_visit()
    for callback in with_hook(trainer, "on_client_update"):
        update = callback.on_client_update(trainer, module, visit, update) or update
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
    """Aggregate what was counted and log the round."""
    loop = federation.loop
    old, count = loop.adapter.clone(), loop.aggregation.count
    if (new := loop.close_round()) is not None:
        call_hook(trainer, "on_aggregate", module, old, new)
    log_round_end(federation, trainer, module, 0 if new is None else count)


def skip_round(federation: FederatedRounds, trainer: Trainer, module: LightningModule) -> None:
    """Open and close a round that has too few clients, all in its epoch's first hook."""
    loop, round = federation.loop, trainer.current_epoch
    if loop.round != round:  # else the run goes on from a checkpoint written in this very hook
        federation.loss = RoundLoss()
        call_hook(trainer, "on_round_start", module, loop.open_round(round))
        old = loop.adapter.clone()
        if (new := loop.close_empty()) is not None:
            call_hook(trainer, "on_aggregate", module, old, new)
        log_round_end(federation, trainer, module, 0)
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
    if federation.failures is not None:
        values["fed/clients_dropped"] = len(loop.plan.dropped)
        values["fed/clients_late"] = len(loop.plan.late)
    if (loss := federation.loss.mean()) is not None:
        values["fed/train_loss"] = float(trainer.strategy.reduce(loss, reduce_op="mean"))
    values |= loop.aggregation.metrics()
    for name, value in values.items():
        federation.log_round(module, name, value)
    call_hook(trainer, "on_round_end", module, loop.plan)
