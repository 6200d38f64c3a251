"""What each client keeps between its visits: one small file a client and version, on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from secrets import token_hex
from time import strftime

import torch
from lightning.pytorch import Callback, Trainer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import AdapterSchema

_CLIENTS_PER_FOLDER = 256
_FILE = re.compile(r"^(\d+)-(\d+)\.safetensors$")


class ClientStore:
    """Named tensors of each client, as the client left them in a round, for one run.

    A client's state for a visit in round t is the newest of a round < t, so that a visit that is
    trained again, after a resume, begins from what it began from before and overwrites what it
    left. Of a client's older versions those are kept that the two newest checkpoints need, of which
    the last may not be written yet; an older checkpoint cannot be resumed, and `resume` or `load`
    says so. Memory does not grow with the number of clients. Where several processes share the
    folder, one saves, and the others may load after a barrier.

    Args:
        folder: the run's own, made by `start`; its name is the run's. Nothing but its user ever
            removes it, for a checkpoint may still need it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._checkpoints: list[set[int]] = []  # rounds before which the last two need the newest

    @classmethod
    def start(cls, folder: Path) -> ClientStore:
        """Make a folder for a new run inside `folder`, beside those of other runs."""
        store = cls(Path(folder) / f"{strftime('%Y%m%d-%H%M%S')}-{token_hex(4)}")
        store.folder.mkdir(parents=True)
        return store

    @property
    def run(self) -> str:
        """The name by which a checkpoint finds the run's states again."""
        return self.folder.name

    def resume(self, round: int) -> None:
        """Go on from a checkpoint of the run in, or after, `round`; later states are forgotten.

        Raises:
            ConfigError: the states are elsewhere, or too new for the checkpoint.
        """
        if not self.folder.is_dir():
            raise ConfigError(
                f"there is no folder {self.folder}, in which the run that wrote the checkpoint "
                "kept its clients' states: resume with the same trainer.default_root_dir and "
                "dirpath, or put the folder back"
            )
        later: list[Path] = []
        for shard in self._shards():
            for client, rounds in _versions(shard).items():
                self._newest(client, rounds, round + 1)
                later += [self._path(client, version) for version in rounds if version > round]
        for path in later:
            path.unlink()
        self.note_checkpoint(round, True)

    def note_checkpoint(self, round: int, is_open: bool) -> None:
        """Keep from now on what a checkpoint needs that is written in, or after, `round`."""
        needs = {round, round + 1} if is_open else {round + 1}
        if needs not in self._checkpoints[-1:]:
            self._checkpoints = [*self._checkpoints[-1:], needs]

    def load(
        self, client: int, before_round: int, schema: AdapterSchema | None = None
    ) -> dict[str, Tensor] | None:
        """Return what the client left in its last visit before a round, None if it had none.

        Args:
            schema: names, shapes and dtypes that the state must have.

        Raises:
            ConfigError: the file is damaged, has another schema, or is no longer there.
        """
        rounds = _versions(self._shard(client), client).get(client, [])
        if (newest := self._newest(client, rounds, before_round)) is None:
            return None
        path = self._path(client, newest)
        tensors = _read(path)[0]
        if schema is not None and AdapterSchema.of(tensors).digest != schema.digest:
            raise ConfigError(
                f"{path} holds a client's state of another model or method: resume with what wrote "
                "it, or choose another trainer.default_root_dir"
            )
        return tensors

    def save(self, client: int, round: int, tensors: Mapping[str, Tensor]) -> None:
        """Write what the client leaves in a round, whole or not at all."""
        shard = self._shard(client)
        shard.mkdir(parents=True, exist_ok=True)
        rounds = _versions(shard, client).get(client, [])
        earlier = {version for version in rounds if version < round}
        kept = {round}
        for bound in {round}.union(*self._checkpoints):
            kept |= {max((version for version in earlier if version < bound), default=round)}
        # All there were since the oldest that is kept, and the first: by these it is known later
        # whether the one that is asked for has been removed.
        past = _read(self._path(client, max(earlier)), False)[1] if earlier else []
        past = sorted({*past, *earlier})
        past = [version for version in past if version in past[:1] or version >= min(kept)]
        metadata = {"past": " ".join(map(str, past)), "order": "\n".join(tensors)}
        copies = {  # apart from each other, as safetensors wants them
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        path = self._path(client, round)
        partial = path.with_name(f".{path.name}.partial")
        save_file(copies, partial, metadata)
        partial.replace(path)
        for version in {*rounds} - kept:
            self._path(client, version).unlink()

    def _newest(self, client: int, rounds: list[int], before_round: int) -> int | None:
        """Return the client's newest version before a round, None if there never was one.

        Raises:
            ConfigError: it has been removed.
        """
        later = [version for version in rounds if version >= before_round]
        past = _read(self._path(client, min(later)), False)[1] if later else []
        earlier = [version for version in {*rounds, *past} if version < before_round]
        if earlier and max(earlier) not in rounds:
            raise ConfigError(
                f"{self.folder} no longer holds the state that client {client} had before round "
                f"{before_round + 1}, only those that the newest checkpoints need: resume from a "
                "later checkpoint"
            )
        return max(earlier, default=None)

    def _shards(self) -> Iterator[Path]:
        yield from sorted(path for path in self.folder.iterdir() if path.name.isdigit())

    def _shard(self, client: int) -> Path:
        return self.folder / f"{client // _CLIENTS_PER_FOLDER:05d}"

    def _path(self, client: int, round: int) -> Path:
        return self._shard(client) / f"{client}-{round}.safetensors"


def open_store(
    trainer: Trainer, callback: Callback | None, folder: Path, run: str | None, round: int
) -> ClientStore:
    """Return a new run's store in `folder`, or that of a run which goes on after `round`.

    All processes call it; the first makes or winds back the run's folder.

    Args:
        callback: whose `dirpath` the folder is, if it can be chosen.

    Raises:
        ConfigError: as from `resume`, or the folder cannot be written to.
    """
    store = None
    if trainer.is_global_zero:
        try:
            store = ClientStore.start(folder) if run is None else ClientStore(folder / run)
            if run is not None:
                store.resume(round)
        except OSError as error:
            own = "" if callback is None else f"{type(callback).__name__}'s dirpath or "
            raise ConfigError(
                f"cannot write to {folder} ({error.strerror}): change {own}trainer.default_root_dir"
            ) from None
    name = trainer.strategy.broadcast(store.run if store else "")
    return store or ClientStore(folder / name)


def _versions(shard: Path, client: int | None = None) -> dict[int, list[int]]:
    """Return the rounds of the files in a folder, by client; of one client only if given."""
    versions: dict[int, list[int]] = {}
    for path in shard.glob("*" if client is None else f"{client}-*"):
        if match := _FILE.match(path.name):
            versions.setdefault(int(match[1]), []).append(int(match[2]))
    return versions


def _read(path: Path, values: bool = True) -> tuple[dict[str, Tensor], list[int]]:
    """Return a file's tensors in the order in which they were given, and the rounds before it."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = metadata["order"].split("\n") if values and metadata["order"] else []
            past = [int(round) for round in metadata["past"].split()]
            return {name: file.get_tensor(name) for name in names}, past
    except (SafetensorError, KeyError, OSError) as error:
        raise ConfigError(
            f"{path} is no whole state of a client ({error}): resume from an older checkpoint, or "
            "start anew"
        ) from None
