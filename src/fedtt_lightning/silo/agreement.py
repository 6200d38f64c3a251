"""What must be the same at the server and at a silo for them to train one adapter."""

from __future__ import annotations

import re

from lightning.pytorch import Trainer

from fedtt_lightning.callbacks.agreement import shared_settings
from fedtt_lightning.callbacks.federated_rounds import find_federation

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
