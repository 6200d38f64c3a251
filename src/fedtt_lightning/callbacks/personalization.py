"""Tensors that stay with their client: a head of its own on top of what all share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from fedtt_lightning.callbacks.client_store import ClientStore, open_store
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import Visit

_SHOWN = 6


class Personalization(Callback):
    """Keeps the named tensors with each client: they train there and never travel.

    A client's first visit begins from the global values of its private tensors, every later one
    from what the client had after the last visit whose update counted. The server never sees them:
    the model outside visits and all checkpoints hold the values they had before training, so judge
    such a run with `ClientEvaluation`. This is FedPer (Arivazhagan et al. 2019, arXiv:1912.00818)
    where `names` is the head.

    The clients' values lie in one small file a client and version (`ClientStore`), in a folder of
    the run's own, `dirpath/<run>`. A resumed run must find it where it was. Nobody removes it when
    the run is over: do it yourself once no checkpoint of the run is needed any more.

    Args:
        names: regular expressions, searched for in the names of the trainable parameters.
        dirpath: folder of the runs' folders; `clients` in `default_root_dir` if not given.

    Raises:
        ConfigError: an expression is invalid or matches nothing, or nothing is left to federate.
    """

    def __init__(self, names: list[str], dirpath: str | None = None) -> None:
        if isinstance(names, str) or not names:
            raise ConfigError(
                f"Personalization's names is {names!r}, but must be a list of regular expressions, "
                "such as [classifier]"
            )
        for pattern in names:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"{pattern!r} in Personalization's names is no regular expression: {error}"
                ) from None
        self.names = list(names)
        self.dirpath = dirpath
        self._store: ClientStore | None = None
        self._forget()

    def _forget(self) -> None:
        self._run: str | None = None
        self._round = -1

    def private_names(self, names: Sequence[str]) -> set[str]:
        """Return the names that stay with the clients."""
        private: set[str] = set()
        for pattern in self.names:
            found = {name for name in names if re.search(pattern, name)}
            if not found:
                raise ConfigError(
                    f"{pattern!r} in Personalization's names matches no trainable parameter"
                    f"{_near(pattern, names)}"
                )
            private |= found
        if len(private) == len(names):
            raise ConfigError(
                f"Personalization's names {self.names} match every trainable parameter: nothing "
                "is left to federate"
            )
        return private

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            find_federation(trainer)
            if trainer.current_epoch == 0:
                self._forget()  # not the run of an earlier fit

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no client's values, or go on with those of the checkpoint's run."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return  # of a single round, in which nobody comes back: leave the folder alone
        folder = Path(self.dirpath or Path(trainer.default_root_dir) / "clients")
        self._store = open_store(trainer, self, folder, self._run, self._round)
        self._run = self._store.run

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, plan: Any) -> None:
        self._round = plan.round

    def on_client_start(
        self, trainer: Trainer, pl_module: LightningModule, visit: Visit, resumed: bool
    ) -> None:
        """Put the client's own values into the model."""
        if not resumed and (own := self.values(trainer, visit.client, visit.round)) is not None:
            find_federation(trainer).loop.begin_from(own)

    def on_client_end(self, trainer: Trainer, pl_module: LightningModule, visit: Visit) -> None:
        """Keep what the client's private tensors have become, unless it was left out."""
        loop = find_federation(trainer).loop
        if loop.counted is None or loop.private_state is None or self._store is None:
            return
        if not loop.private_state.is_finite():
            rank_zero_warn(
                f"client {visit.client} keeps the private tensors it had before round "
                f"{visit.round + 1}: the new ones hold NaN or Inf"
            )
            return
        if trainer.is_global_zero:
            self._store.save(visit.client, visit.round, loop.private_state.tensors())
        trainer.strategy.barrier("private tensors")

    def values(self, trainer: Trainer, client: int, before_round: int) -> dict[str, Tensor] | None:
        """Return a client's private tensors as they were before a round, None if it has none."""
        if self._store is None:
            return None
        loop = find_federation(trainer).loop
        return self._store.load(client, before_round, loop.schema.select(loop.private))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._store is not None:
            self._store.note_checkpoint(self._round, find_federation(trainer).loop.is_open)

    def state_dict(self) -> dict[str, Any]:
        return {"run": self._run, "round": self._round}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._run, self._round = state_dict["run"], state_dict["round"]


def _near(pattern: str, names: Sequence[str]) -> str:
    """Return the part of a name that is nearest to a pattern, or the names' rarest parts."""
    parts = Counter(part for name in names for part in name.split("."))
    if close := get_close_matches(pattern, parts, n=1, cutoff=0.5):
        return f"; did you mean {close[0]!r}?"
    rarest = sorted((part for part in parts if not part.isdigit()), key=lambda part: parts[part])
    return f"; parts of their names are {', '.join(rarest[:_SHOWN])}"


def find_personalization(trainer: Trainer) -> Personalization | None:
    """Return the trainer's Personalization callback, if it has one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Personalization):
            return callback
    return None
