"""What each client keeps between its visits: one small file a client and version, on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from secrets import token_hex

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import AdapterSchema

_CLIENTS_PER_FOLDER = 256
_FILE = re.compile(r"^(\d+)-(\d+)\.safetensors$")


class ClientStore:
    """Named tensors of each client, as the client left them in a round.

    A client's state for a visit in round t is the newest of a round < t, so that a visit that is
    trained again, after a resume, begins from what it began from before and overwrites what it
    left. The two newest versions of a client are kept: a checkpoint that is older than both cannot
    be resumed, and `resume` says so. Memory does not grow with the number of clients. Where several
    processes share the folder, one saves, and the others may load after a barrier.

    Args:
        folder: holds the files; made when it is first written to. Resumed runs need the same one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @property
    def run(self) -> str | None:
        """The name of the run whose states these are, for its checkpoints; None before `start`."""
        path = self.folder / "run.txt"
        return path.read_text() if path.is_file() else None

    def start(self) -> str:
        """Forget all states, which are those of an earlier run, and return a new run's name."""
        for shard in self._shards():
            for path in shard.iterdir():
                if _FILE.match(path.name):
                    path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        run = token_hex(8)
        partial = self.folder / ".run.txt.partial"
        partial.write_text(run)
        partial.replace(self.folder / "run.txt")
        return run

    def resume(self, run: str, round: int) -> None:
        """Go on from a checkpoint of `run` in, or after, `round`; later states are forgotten.

        Raises:
            ConfigError: the states are of another run, or too new for the checkpoint.
        """
        if self.run != run:
            raise ConfigError(
                f"{self.folder} does not hold the clients' states of the run that wrote the "
                "checkpoint: resume with the same trainer.default_root_dir, as long as no other "
                "run has started in it"
            )
        later: list[Path] = []
        for shard in self._shards():
            for client, rounds in _versions(shard).items():
                if min(rounds) > round:
                    self._check_first(client, rounds, round + 1)
                later += [self._path(client, version) for version in rounds if version > round]
        for path in later:
            path.unlink()

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
        earlier = [round for round in rounds if round < before_round]
        if not earlier:
            if rounds:
                self._check_first(client, rounds, before_round)
            return None
        path = self._path(client, max(earlier))
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
        earlier = sorted(version for version in rounds if version < round)
        first = _read(self._path(client, earlier[-1]), False)[1] if earlier else round
        metadata = {"first": str(first), "order": "\n".join(tensors)}
        copies = {  # apart from each other, as safetensors wants them
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        path = self._path(client, round)
        partial = path.with_name(f".{path.name}.partial")
        save_file(copies, partial, metadata)
        partial.replace(path)
        for version in {*rounds} - {round, *earlier[-1:]}:
            self._path(client, version).unlink()

    def _check_first(self, client: int, rounds: list[int], before_round: int) -> None:
        """Raise ConfigError if the client had a state before the round, which is gone."""
        first = _read(self._path(client, min(rounds)), False)[1]
        if first < before_round:
            raise ConfigError(
                f"{self.folder} no longer holds the state that client {client} had before round "
                f"{before_round + 1}, only the two newest: resume from a later checkpoint"
            )

    def _shards(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from sorted(path for path in self.folder.iterdir() if path.name.isdigit())

    def _shard(self, client: int) -> Path:
        return self.folder / f"{client // _CLIENTS_PER_FOLDER:05d}"

    def _path(self, client: int, round: int) -> Path:
        return self._shard(client) / f"{client}-{round}.safetensors"


def _versions(shard: Path, client: int | None = None) -> dict[int, list[int]]:
    """Return the rounds of the files in a folder, by client; of one client only if given."""
    versions: dict[int, list[int]] = {}
    for path in shard.glob("*" if client is None else f"{client}-*"):
        if match := _FILE.match(path.name):
            versions.setdefault(int(match[1]), []).append(int(match[2]))
    return versions


def _read(path: Path, values: bool = True) -> tuple[dict[str, Tensor], int]:
    """Return a file's tensors in the order in which they were given, and the first round."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = metadata["order"].split("\n") if values and metadata["order"] else []
            return {name: file.get_tensor(name) for name in names}, int(metadata["first"])
    except (SafetensorError, KeyError, OSError) as error:
        raise ConfigError(
            f"{path} is no whole state of a client ({error}): resume from an older checkpoint, or "
            "start anew"
        ) from None
