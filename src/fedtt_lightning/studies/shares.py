"""Shares of a study's cells, each run by a process of its own on any machine with the folder."""

from __future__ import annotations

import errno
import fcntl
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.cells import Cell


def share_of(cells: Sequence[Cell], share: str) -> list[Cell]:
    """Return the cells of share `K/N`: the K-th, and every N-th after it.

    Raises:
        ConfigError: it is no K/N with K from 1 to N.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", share)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise ConfigError(f"--cells {share}: give K/N, the K-th of N shares, such as 3/8")
    return list(cells[number - 1 :: count])


@contextmanager
def alone_with(folder: Path, cells: Sequence[Cell]) -> Iterator[None]:
    """Let no other process of this study run these cells for as long as this one lives.

    A cell's lock is a byte of the file `.lock`, named by a hash: such locks (fcntl) hold on network
    file systems too, where these have them.

    Raises:
        ConfigError: another process runs one of them, or the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        for cell in cells:
            place = blake2b(str(cell.folder.relative_to(folder)).encode(), digest_size=7).digest()
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int.from_bytes(place))
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise ConfigError(
                        f"{file.name} cannot be locked: {error.strerror}: choose a folder on "
                        "another file system"
                    ) from None
                raise ConfigError(
                    f"a study runs {cell.name} in {folder} now: wait until it has ended, take "
                    "another share by --cells, or choose another folder"
                ) from None
        yield
