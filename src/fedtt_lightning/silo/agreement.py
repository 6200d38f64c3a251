"""What must be the same at the server and at a silo for them to train one adapter."""

from __future__ import annotations

import re

from lightning.pytorch import Trainer

from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.run_state import run_settings

_SECRET = re.compile(r"noise keyed by (the seed|secret \w+)")  # which a silo keeps to itself


def agreement(trainer: Trainer, secure: bool = False) -> dict[str, str]:
    """Return the settings that server and silos share, by what a user would change.

    There from `on_fit_start` of FederatedRounds on. Who holds which data is not among them: silos
    may have data of their own.

    Args:
        secure: whether updates are added up in secret.
    """
    federation = find_federation(trainer)
    loop = federation.loop
    planner = loop.planner
    settings = {key: value for key, value in run_settings(loop).items() if "data." not in key}
    return {key: _SECRET.sub("noise", value) for key, value in settings.items()} | {
        "model, with the same method,": f"trainable tensors {loop.schema.digest[:12]}",
        "federation.seed": f"seed {planner.experiment}",
        "serve.secure_aggregation and silo.secure_aggregation": f"secure_aggregation {secure}",
        "federation.upload": f"upload {federation.upload!r}",
        "federation.local_epochs and federation.local_steps": (
            f"local_epochs {planner.local_epochs} and local_steps {planner.local_steps}"
        ),
        "trainer.max_epochs": f"{trainer.max_epochs} rounds",
        "trainer.accumulate_grad_batches": f"accumulate_grad_batches {planner.accumulate}",
        "data.batch_size, data.group_by_length and data.drop_last": planner.batching,
    }
