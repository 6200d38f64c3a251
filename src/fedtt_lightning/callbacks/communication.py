"""Bytes up and down, counted from what is really serialized."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.federation import AdapterState, RoundPlan, Visit


class Communication(Callback):
    """Counts and logs the bytes that travel in each round and so far.

    A client downloads the tensors that changed since it was last there (all of them the first
    time) and uploads the tensors that trained. Counted are the bytes of the safetensors messages,
    without what a transport adds. Logged at each round's end: `comm/upload_bytes`,
    `comm/download_bytes` (this round, all clients), `comm/upload_bytes_total` and
    `comm/download_bytes_total` (so far).
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.uploaded = self.downloaded = 0
        self.uploaded_total = self.downloaded_total = 0
        self.uploads = 0
        self._seen: dict[int, int] = {}
        self._changed: dict[str, int] = {}
        self._sizes: dict[frozenset[str], int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            find_federation(trainer)
            if trainer.current_epoch == 0:
                self._reset()  # not the counts of an earlier fit

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        self.uploaded = self.downloaded = 0

    def on_client_start(
        self, trainer: Trainer, pl_module: LightningModule, visit: Visit, resumed: bool
    ) -> None:
        """Count the download of what changed since the client's last visit."""
        if resumed:
            return
        loop = find_federation(trainer).loop
        last = self._seen.get(visit.client, -1)
        changed = self._changed
        names = frozenset(n for n in loop.schema.names if last < 0 or changed.get(n, -1) >= last)
        size = self._size(loop.adapter, names) if names else 0
        self.downloaded += size
        self.downloaded_total += size
        self._seen[visit.client] = visit.round

    def on_client_update(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        visit: Visit,
        update: AdapterState,
    ) -> None:
        """Count the upload of the tensors that trained."""
        loop = find_federation(trainer).loop
        size = self._size(loop.adapter, frozenset(update.schema.names))
        self.uploaded += size
        self.uploaded_total += size
        self.uploads += 1

    def on_aggregate(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        old: AdapterState,
        new: AdapterState,
    ) -> None:
        federation = find_federation(trainer)
        round = federation.loop.round
        self._changed.update(dict.fromkeys(federation.loop.trained_names(round), round))
        for name, value in {
            "comm/upload_bytes": self.uploaded,
            "comm/download_bytes": self.downloaded,
            "comm/upload_bytes_total": self.uploaded_total,
            "comm/download_bytes_total": self.downloaded_total,
        }.items():
            federation.log_round(pl_module, name, value)

    def state_dict(self) -> dict[str, Any]:
        keys = ("uploaded", "downloaded", "uploaded_total", "downloaded_total", "uploads")
        counts = {key: getattr(self, key) for key in keys}
        return {"counts": counts, "seen": dict(self._seen), "changed": dict(self._changed)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict["counts"])
        self._seen = dict(state_dict["seen"])
        self._changed = dict(state_dict["changed"])

    def _size(self, adapter: AdapterState, names: frozenset[str]) -> int:
        """Return the bytes of a message; all messages of the same tensors are equally long."""
        if names not in self._sizes:
            message = adapter.select(adapter.schema.select(names)).to_bytes()
            self._sizes[names] = len(message)
        return self._sizes[names]
