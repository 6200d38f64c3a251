"""What a loop says of a state that is not its own, of moved tensors and of too few updates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
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


def visit_rows(plan: RoundPlan | None) -> list[list[int]]:
    """Return client, examples, batches and first batch of each visit, for a checkpoint."""
    visits = plan.visits if plan is not None else ()
    return [[v.client, v.num_examples, v.num_batches, v.first_batch] for v in visits]


def check_visits(state: dict[str, Any], plan: RoundPlan | None) -> None:
    """Raise ConfigError if the state lies inside a round whose visits are others here."""
    if state["is_open"] and state["visits"] != visit_rows(plan):
        raise ConfigError(
            f"the checkpoint lies inside round {state['round'] + 1}, whose visits are others here: "
            "resume with the same data, data.clients, data.partition, data.batch_size and "
            "federation keys"
        )


def check_frozen(
    start: AdapterState, tensors: Mapping[str, Tensor], trained: Collection[str], round: int
) -> None:
    """Raise FederationError if a tensor that is frozen in a round has moved."""
    for name, old in start.tensors().items():
        if name not in trained and not torch.equal(old, tensors[name]):
            raise FederationError(
                f"{name} is frozen in round {round + 1} but was changed during training: "
                "something other than the optimizer writes to it"
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


def no_usable_update(round: int, rejected: Sequence[int]) -> FederationError:
    """Return the error of a round all of whose clients sent NaN or Inf."""
    return FederationError(
        f"round {round + 1} has no usable update: those of clients "
        f"{', '.join(map(str, rejected))} hold NaN or Inf. Lower the learning rate, "
        "or look at these clients' data"
    )


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
