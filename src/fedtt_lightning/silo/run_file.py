"""Which run a folder belongs to, who runs there, and whether it is over."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex
from typing import IO

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.silo.local_socket import lock_file

_NAME = "federation.json"
_END = "ended.json"
_LOCK = "running.lock"


@dataclass(frozen=True)
class FederationFile:
    """What a server that was killed must find again: silos keep state of this one run.

    Attributes:
        run: the name by which silos know the run.
        examples: of each client; empty until all silos have joined once.
    """

    run: str
    examples: tuple[int, ...] = ()

    @classmethod
    def open(cls, folder: Path) -> FederationFile:
        """Read the folder's file, or write one with a new run's name.

        Raises:
            ConfigError: the file cannot be read, or is something else.
        """
        path = folder / _NAME
        if not path.exists():
            new = cls(token_hex(8))
            new.save(folder)
            return new
        try:
            found = json.loads(path.read_text())
            return cls(str(found["run"]), tuple(int(number) for number in found["examples"]))
        except (OSError, ValueError, TypeError, KeyError):
            raise ConfigError(
                f"{path} does not tell which run this folder belongs to: choose another "
                "trainer.default_root_dir, or remove the folder to begin anew"
            ) from None

    def save(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{_NAME}.partial"
            partial.write_text(json.dumps(asdict(self)) + "\n")
            partial.replace(folder / _NAME)
        except OSError as error:
            raise _cannot_write(folder, error) from None


def hold_folder(folder: Path) -> IO[bytes]:
    """Keep other servers and silos out of a folder until the file returned is closed.

    Raises:
        ConfigError: another one runs there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return lock_file(
            folder / _LOCK,
            f"another server or silo runs in {folder}: give each a trainer.default_root_dir",
        )
    except OSError as error:
        raise _cannot_write(folder, error) from None


def note_end(folder: Path, rounds: int | None, run: str) -> None:
    """Write down that a run of so many rounds is over, for a silo that is killed before it ends."""
    with suppress(OSError):  # without the note it only waits in vain
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{_END}.partial"
        partial.write_text(json.dumps([run, rounds]) + "\n")
        partial.replace(folder / _END)


def has_ended(folder: Path, rounds: int | None, run: str) -> bool:
    """Tell whether `note_end` has noted this in the folder."""
    with suppress(OSError, ValueError):
        return bool(json.loads((folder / _END).read_text()) == [run, rounds])
    return False


def _cannot_write(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot write to {folder} ({error.strerror}): change trainer.default_root_dir"
    )
