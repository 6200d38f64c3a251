"""Which of Flower's processes are alive, as the system tells."""

from contextlib import suppress
from pathlib import Path


def processes_of(home: Path, command: str = "") -> list[int]:
    """Return the living processes whose Flower folder is `home`, by a part of their command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or it has just ended
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            if f"FLWR_HOME={home}\0".encode() in (folder / "environ").read_bytes():
                found += [int(folder.name)] if command.encode() in line else []
    return found
