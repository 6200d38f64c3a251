"""What must be the same at the server and at a silo for them to train one adapter."""

from __future__ import annotations

import re

from lightning.pytorch import Trainer

from fedtt_lightning.callbacks.agreement import shared_settings
from fedtt_lightning.callbacks.build import learns
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import AdapterState, FederatedLoop
from fedtt_lightning.silo.messages import Train
from fedtt_lightning.silo.payloads import adapter_hash, read_values, schema_hash, unpack_names

_SECRET = re.compile(r"noise keyed by (the seed|secret \w+)")  # which a silo keeps to itself


def agreement(trainer: Trainer, secure: bool = False) -> dict[str, str]:
    """Return the settings that server and silos share, by what a user would change.

    There from `on_fit_start` of FederatedRounds on. Who holds which data is not among them: silos
    may have data of their own.

    Args:
        secure: whether updates are added up in secret.
    """
    settings = shared_settings(find_federation(trainer), trainer)
    return {
        key: _SECRET.sub("noise", value)
        for key, value in settings.items()
        if "data.partition" not in key
    } | {"serve.secure_aggregation and silo.secure_aggregation": f"secure_aggregation {secure}"}


def problem_of(trainer: Trainer, loop: FederatedLoop, ask: Train) -> str | None:
    """Return why a request cannot be met here, with both sides' values."""
    schema, rounds = schema_hash(loop.schema), trainer.max_epochs
    if ask.schema != schema:
        return f"the adapter asked for has the schema {ask.schema[:12]}, this one {schema[:12]}"
    if ask.experiment != loop.planner.experiment:
        return (
            f"the server's experiment has seed {ask.experiment}, this one "
            f"{loop.planner.experiment}: use the same federation.seed"
        )
    if ask.rounds != rounds or ask.round >= ask.rounds:
        return (
            f"round {ask.round + 1} of {ask.rounds} was asked for, but trainer.max_epochs is "
            f"{rounds} here"
        )
    try:
        named = unpack_names(ask.trained, loop.schema.names)
        changed = unpack_names(ask.changed, loop.schema.names)
        read_values(ask.payload, loop.schema, changed)
    except FederationError as error:
        return str(error)
    if private := sorted(changed & loop.private):
        return f"{private[0]} is private here, and no server's to change"
    own = loop.schedule.trained(loop.schema.names, ask.round, loop.planner.experiment)
    if not learns(loop.schedule) and (differ := sorted(own ^ named)):
        return (
            f"{differ[0]} is {'trained' if differ[0] in named else 'frozen'} in round "
            f"{ask.round + 1} at the server, but not here: use the same FactorFreezing callback"
        )
    return None


def adapter_of(loop: FederatedLoop, ask: Train) -> AdapterState | None:
    """Return the adapter of a request, None if what changed does not lead to it from here."""
    adapter = loop.adapter.clone()
    changed = unpack_names(ask.changed, loop.schema.names)
    read_values(ask.payload, loop.schema, changed).copy_into(adapter.tensors())
    shared = loop.schema.select({*loop.schema.names} - loop.private)
    same = adapter_hash(adapter.select(shared)) == ask.adapter
    return adapter if same and adapter.is_finite() else None
