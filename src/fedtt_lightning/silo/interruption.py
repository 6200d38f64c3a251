"""Long-lived commands that SIGTERM ends as Ctrl-C does, wherever they wait."""

from __future__ import annotations

import signal
import sys
from typing import Any

from fedtt_lightning.cli import FederatedCLI, main


def run_until_interrupted(kind: type[FederatedCLI], args: list[str], name: str) -> int:
    """Run `fit` of a command line and return the exit code: 128 + the signal that ended it.

    Args:
        kind: of the command line.
        args: without the command.
        name: of the command, as users know it.
    """
    received: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt  # after which Lightning lets callbacks close what they opened

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
    try:
        return main(["fit", *args], kind)
    except (KeyboardInterrupt, SystemExit):
        if not received:
            raise
    print(
        f"{name} was interrupted; started again, it goes on from its last checkpoint",
        file=sys.stderr,
    )
    return 128 + received[0]
