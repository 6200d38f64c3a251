"""Bytes up and down, counted from what is really serialized."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.federation import (
    AdapterSchema,
    AdapterState,
    FederatedLoop,
    RoundPlan,
    UploadCodec,
    Visit,
)


class Communication(Callback):
    """Counts and logs the bytes that travel in each round and so far.

    A client downloads the tensors that changed since it was last there (all of them the first
    time) and uploads the update of those that trained, as `federation.upload` writes it, both at
    its own rank. Counted are the bytes of the safetensors messages, without what a transport adds;
    also those of clients that drop out (their download), are late or come to a round that is
    skipped. Logged at each round's end: `comm/upload_bytes`, `comm/download_bytes` (this round, all
    clients), `comm/upload_bytes_total` and `comm/download_bytes_total` (so far).

    Attributes:
        uploaded: bytes up in the last closed round.
        downloaded: bytes down in the last closed round.
        uploaded_total: bytes up so far, the open round's too.
        downloaded_total: bytes down so far, the open round's too.
        uploads: messages up so far.
        downloads: messages down so far.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.uploaded = self.downloaded = 0
        self.uploaded_total = self.downloaded_total = 0
        self.uploads = self.downloads = 0
        self._uploading = self._downloading = 0  # bytes of the open round
        self._seen: dict[int, int] = {}
        self._changed: dict[str, int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            find_federation(trainer)
            self._uploading = self._downloading = 0  # not of a round that an earlier fit left
            if trainer.current_epoch == 0:
                self._reset()  # not the counts of an earlier fit

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        """Count what clients send and fetch that are not trained: dropped, late or too few."""
        federation = find_federation(trainer)
        loop, codec = federation.loop, federation.upload
        for client in (*plan.dropped, *plan.late, *plan.unused):
            self._download(loop, client, plan.round)
        for client in (*plan.late, *plan.unused):
            self.count_upload(self._size(loop, loop.travelling, client, codec))
            self.uploads += 1

    def on_client_end(self, trainer: Trainer, pl_module: LightningModule, visit: Visit) -> None:
        """Count the download of what changed since the client's last visit, and its upload."""
        federation = find_federation(trainer)
        loop, codec = federation.loop, federation.upload
        self._download(loop, visit.client, visit.round)
        self.count_upload(self._size(loop, loop.travelling, visit.client, codec))
        self.uploads += 1

    def on_aggregate(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        old: AdapterState,
        new: AdapterState,
    ) -> None:
        before, after = old.tensors(), new.tensors()
        changed = [name for name in after if not torch.equal(after[name], before[name])]
        self.note_changed(changed, find_federation(trainer).loop.round)

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        # Callbacks that are called before this one may have counted since the round started, and
        # others may in the next round: so the counts are begun anew here, not when a round starts.
        self.uploaded, self.downloaded = self._uploading, self._downloading
        self._uploading = self._downloading = 0
        federation = find_federation(trainer)
        for name, value in {
            "comm/upload_bytes": self.uploaded,
            "comm/download_bytes": self.downloaded,
            "comm/upload_bytes_total": self.uploaded_total,
            "comm/download_bytes_total": self.downloaded_total,
        }.items():
            federation.log_round(pl_module, name, value)

    def note_changed(self, names: Iterable[str], round: int) -> None:
        """Note what the aggregate of a round has changed, which clients then have to fetch."""
        self._changed |= dict.fromkeys(names, round)

    def count_upload(self, nbytes: int) -> None:
        """Count bytes that a client sends."""
        self._uploading += nbytes
        self.uploaded_total += nbytes

    def count_download(self, nbytes: int) -> None:
        """Count bytes that a client fetches."""
        self._downloading += nbytes
        self.downloaded_total += nbytes

    def state_dict(self) -> dict[str, Any]:
        keys = ["uploads", "downloads", "uploaded", "downloaded"]
        keys += ["uploaded_total", "downloaded_total", "_uploading", "_downloading"]
        counts = {key: getattr(self, key) for key in keys}
        return {"counts": counts, "seen": dict(self._seen), "changed": dict(self._changed)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict["counts"])
        self._seen = dict(state_dict["seen"])
        self._changed = dict(state_dict["changed"])

    def _download(self, loop: FederatedLoop, client: int, round: int) -> None:
        last = self._seen.get(client, -1)
        changed = self._changed
        names = [
            name
            for name in loop.schema.names
            if name not in loop.private and (last < 0 or changed.get(name, -1) >= last)
        ]
        self.count_download(self._size(loop, loop.schema.select(names), client))
        self._seen[client] = round
        self.downloads += 1

    def _size(
        self,
        loop: FederatedLoop,
        schema: AdapterSchema,
        client: int,
        codec: UploadCodec | None = None,
    ) -> int:
        """Return the bytes of a client's message with these tensors, 0 if there are none."""
        schema = loop.message_schema(schema, client)
        if not schema.specs:
            return 0
        return schema.message_nbytes if codec is None else codec.message_nbytes(schema)


def find_communication(trainer: Trainer) -> Communication | None:
    """Return the trainer's Communication callback, if it has one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Communication):
            return callback
    return None
