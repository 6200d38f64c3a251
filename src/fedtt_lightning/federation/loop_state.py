"""What a loop says of a state that is not its own, and of a round with too few updates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation.adapter_state import AdapterSchema
from fedtt_lightning.federation.plan import RoundPlan


def check_same_run(state: dict[str, Any], schema: AdapterSchema, experiment: int) -> None:
    """Raise ConfigError if the state is of another model, method or experiment."""
    ours = {name: [shape, dtype] for name, shape, dtype in schema.rows()}
    theirs = {name: [list(shape), dtype] for name, shape, dtype in state["schema"]}
    if ours != theirs:
        names = sorted(n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n))
        one = names[0]
        raise ConfigError(
            f"the checkpoint is of another model or method: {len(names)} trainable tensors "
            f"differ, first {one}: here {ours.get(one, 'absent')}, "
            f"in the checkpoint {theirs.get(one, 'absent')}"
        )
    if state["experiment"] != experiment:
        raise ConfigError(
            f"the checkpoint is of the experiment with seed {state['experiment']}, this run "
            f"has seed {experiment}: resume with federation.seed={state['experiment']}"
        )


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_device(item, device) for item in value)
    return value


def too_few_updates(
    plan: RoundPlan, count: int, rejected: int, problem: str | None
) -> FederationError:
    """Return the error of a round with too few usable updates, of which `rejected` held NaN or Inf.

    Args:
        problem: why the aggregation rule cannot work with `count` updates, if that is the reason.
    """
    few = f"fewer than federation.min_clients={plan.needed}: lower it"
    if problem is not None:
        few = f"too few for federation.aggregation ({problem}): choose another"
    return FederationError(
        f"round {plan.round + 1} has {count} usable updates ({len(plan.dropped)} clients dropped "
        f"out, {len(plan.late)} late, {rejected} with NaN or Inf), {few}, choose more clients a "
        "round, or set federation.below_min_clients to skip"
    )
