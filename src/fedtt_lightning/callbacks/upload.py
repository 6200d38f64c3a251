"""Updates on their way to the server: through a codec, and what each client keeps of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer

from fedtt_lightning.callbacks.client_store import ClientStore, open_store
from fedtt_lightning.callbacks.run_state import stable_repr
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    AdapterSchema,
    AdapterState,
    FederatedLoop,
    UploadCodec,
    UploadMessage,
    Visit,
    seed_for,
)
from fedtt_lightning.federation.codecs import transmit

if TYPE_CHECKING:
    from fedtt_lightning.callbacks.federated_rounds import FederatedRounds


class UploadChannel:
    """Sends each client's update to the server, which gets what it reads of the message.

    What a client keeps under error feedback lies in one small file a client and version
    (`ClientStore`), float64, of all tensors that ever travel, in a folder of the run's own,
    `residuals/<run>` in `default_root_dir`. A resumed run must find it where it was.

    Args:
        codec: writes the messages; without one the server gets updates as they are.
        store: what clients keep; nothing without it.

    Attributes:
        message: the update that was sent last, as it travels; None without a codec.
    """

    def __init__(self, codec: UploadCodec | None = None, store: ClientStore | None = None) -> None:
        self.codec = codec
        self._store = store
        self.message: UploadMessage | None = None

    @classmethod
    def open(
        cls,
        codec: UploadCodec | None,
        trainer: Trainer,
        loop: FederatedLoop,
        saved: dict[str, Any] | None,
    ) -> UploadChannel:
        """Begin with nothing kept, or go on from `state_dict`.

        Raises:
            ConfigError: the state is of another codec, or what clients keep is not there.
        """
        if saved is not None and saved["codec"] != stable_repr(codec):
            raise ConfigError(
                f"the checkpoint was trained with upload {saved['codec']}, this run has {codec!r}: "
                "use the same federation.upload"
            )
        if codec is None or not codec.error_feedback or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return cls(codec)  # in the single round of fast_dev_run nobody comes back
        folder = Path(trainer.default_root_dir) / "residuals"
        run = None if saved is None else saved["run"]
        return cls(codec, open_store(trainer, None, folder, run, loop.round))

    def send(
        self, trainer: Trainer, loop: FederatedLoop, visit: Visit, update: AdapterState
    ) -> AdapterState:
        """Return what the server gets of an update; the client keeps the rest if it is finite."""
        if self.codec is None:
            return update
        key = seed_for(loop.planner.experiment, "upload", visit.round, visit.client)
        schema = loop.message_schema(update.schema, visit.client)
        if self._store is None:
            received, _, self.message = transmit(self.codec, update, key, schema=schema)
            return received
        shapes = {s.name: s.shape for s in loop.schema.specs if s.name not in loop.private}
        kept = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        kept = self._store.load(visit.client, visit.round, AdapterSchema.of(kept)) or kept
        received, kept, self.message = transmit(self.codec, update, key, kept, schema)
        if received.is_finite():
            if trainer.is_global_zero:
                self._store.save(visit.client, visit.round, kept)
            trainer.strategy.barrier("residuals")
        return received

    def note_checkpoint(self, loop: FederatedLoop) -> None:
        """Keep from now on what a checkpoint needs that is being written."""
        if self._store is not None:
            self._store.note_checkpoint(loop.round, loop.is_open)

    def state_dict(self) -> dict[str, Any]:
        """Return what the run was sent with, and where clients' residuals are."""
        run = None if self._store is None else self._store.run
        return {"codec": stable_repr(self.codec), "run": run}


def check_upload(settings: FederatedRounds) -> None:
    """Raise ConfigError if the codec's settings or the aggregation do not go with it."""
    codec, rule = settings.upload, settings.aggregation
    if codec is None:
        return
    codec.check()
    name, kind = type(rule).__name__, type(codec).__name__
    if getattr(rule, "codec", None) is not None:
        raise ConfigError(
            f"federation.aggregation {name} adds up fixed-point numbers, its own form of messages, "
            f"beside which there is no federation.upload {kind}: remove federation.upload, or "
            "let the aggregation do without its codec"
        )
    if codec.error_feedback and rule.replaces_factors:
        raise ConfigError(
            f"federation.upload.error_feedback keeps what was not sent of a factor for later, but "
            f"federation.aggregation {name} makes factors anew each round: set it to false"
        )
