"""The state of a federated run in a Lightning checkpoint, whose weights are always global."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from torch import Tensor

from fedtt_lightning.callbacks.exchange import Exchange
from fedtt_lightning.callbacks.lightning_private import mark_between_rounds, mark_round_unfinished
from fedtt_lightning.callbacks.round_loss import RoundLoss
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import FederatedLoop
from fedtt_lightning.federation.loop_state import check_same_run

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of an object, in another process another


def save_run(loop: FederatedLoop, loss: RoundLoss) -> dict[str, Any]:
    """Return what a run needs to go on: inside a visit also gradients that still accumulate."""
    inside = loop.inside_visit
    return {
        "loop": loop.state_dict(),
        "loss": loss.state_dict(),
        "settings": run_settings(loop),
        "clients": len(loop.planner.sizes),
        "batching": loop.planner.batching,
        "grads": {
            name: tensor.grad.clone()
            for name, tensor in loop.tensors.items()
            if inside and tensor.grad is not None
        },
    }


def load_run(
    state: dict[str, Any], loop: FederatedLoop, loss: RoundLoss, exchange: Exchange | None = None
) -> None:
    """Go on from `save_run`, but for the gradients, which `load_gradients` sets.

    Raises:
        ConfigError: the checkpoint is of another model, method, schedule or experiment, or lies
            inside a round that several processes are to go on with.
    """
    check_same_run(state["loop"], loop.schema, loop.planner.experiment)
    for key, ours in run_settings(loop).items():
        if (theirs := state["settings"].get(key)) != ours:
            raise ConfigError(
                f"the checkpoint was trained with {theirs}, this run has {ours}: use the same {key}"
            )
    loop.load_state_dict(state["loop"])
    theirs, ours = state.get("batching"), loop.planner.batching
    if loop.is_open and theirs != ours:
        raise ConfigError(
            f"the checkpoint lies inside a round with {theirs}, this run has {ours}: use the same "
            "data.batch_size, data.group_by_length and processes until that round has ended"
        )
    if loop.is_open and exchange is not None:
        raise ConfigError(
            f"the checkpoint lies inside round {loop.round + 1}, with which one silo alone can go "
            "on: let one end the round, or resume from a round's end"
        )
    loss.load_state_dict(state["loss"])


def run_settings(loop: FederatedLoop) -> dict[str, str]:
    """Return what must be the same in a resumed run, by what a user would change."""
    return {
        "FactorFreezing callback": stable_repr(loop.schedule),
        "federation.aggregation": stable_repr(loop.aggregation),
        "federation.server": stable_repr(loop.server),
        "federation.weighting": loop.weighting,
        "federation.ranks": _describe(loop.ranks),
        "data.clients, data.partition and data.client_holdout": (
            f"{len(loop.planner.sizes)} clients and partition {loop.planner.partition}"
        ),
        "privacy (LocalDP, CentralDP and what the noise was calibrated for)": (
            f"privacy {loop.planner.privacy}"
        ),
        "private tensors": ", ".join(sorted(loop.private)) or "none",
    }


def stable_repr(value: object) -> str:
    """Return `repr(value)` as any process writes it, whose objects lie elsewhere."""
    return _ADDRESS.sub("", repr(value))


def _describe(ranks: np.ndarray | None) -> str:
    """Name ranks so that the names of others differ, however many clients there are."""
    if ranks is None:
        return "the same rank for all clients"
    counts = zip(*np.unique(ranks, return_counts=True), strict=True)
    shares = ", ".join(f"{count} of rank {rank}" for rank, count in counts)
    return f"clients: {shares} (in the order {sha256(ranks.tobytes()).hexdigest()[:8]})"


def check_savable(loop: FederatedLoop, exchange: Exchange | None) -> None:
    """Raise FederationError if a checkpoint would miss what other processes are training."""
    if loop.is_open and exchange is not None:
        raise FederationError(
            f"a checkpoint was asked for inside round {loop.round + 1}, which several silos train: "
            "save at round ends only"
        )


def load_gradients(state: dict[str, Any], loop: FederatedLoop) -> None:
    """Set the gradients that were accumulated; Lightning clears them until training starts."""
    gradients: dict[str, Tensor] = state["grads"]
    for name, gradient in gradients.items():
        tensor = loop.tensors[name]
        tensor.grad = gradient.to(tensor.device)


def keep_weights_global(
    loop: FederatedLoop, module: LightningModule, checkpoint: dict[str, Any]
) -> None:
    """Put the global values in place of a client's, and mark an open round as unfinished.

    Between visits optimizers keep no state: the next client begins without, and the last one's
    moments are its gradients, which nobody should publish.
    """
    if not loop.inside_visit:
        for optimizer in checkpoint.get("optimizer_states", ()):
            optimizer["state"] = {}
    if loop.inside_visit:
        weights = checkpoint["state_dict"]
        names = {id(tensor): name for name, tensor in loop.tensors.items()}
        adapter = loop.adapter.tensors()
        for alias, parameter in module.named_parameters(remove_duplicate=False):
            if alias in weights and id(parameter) in names:
                weights[alias] = adapter[names[id(parameter)]].clone()
    if loop.is_open:
        mark_round_unfinished(checkpoint)
    mark_between_rounds(checkpoint)
