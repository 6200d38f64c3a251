"""Silos of one machine, reached over their own sockets, without anything in between."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.local_socket import ask, connect
from fedtt_lightning.silo.transport import Failure, Transport

_GRACE = 1.0  # seconds an abandoned request stays open after the deadline


class DirectTransport(Transport):
    """Reaches silos that listen on sockets of this machine.

    Args:
        paths: the silos' sockets; a silo's place among them is its node's number, too.
        limit: bytes an answer may have; of a longer one no more is read.
    """

    def __init__(self, paths: Sequence[str | Path], limit: int) -> None:
        self._paths = list(paths)
        self._limit = limit
        self._answers: SimpleQueue[tuple[int, bytes | Failure]] = SimpleQueue()
        self.silos = {place: place for place in range(len(self._paths))}

    def nodes(self) -> list[int]:
        """Return the places of the sockets on which somebody listens."""
        return [node for node, path in enumerate(self._paths) if _listens(path)]

    def forget(self) -> None:
        self._answers = SimpleQueue()  # requests under way keep the old one

    def send(self, node: int, payload: bytes, lifetime: float) -> None:
        """Ask a node, in a thread."""
        work = (node, payload, lifetime + _GRACE, self._answers)
        Thread(target=self._ask, args=work, daemon=True).start()

    def receive(self, timeout: float) -> tuple[int, bytes | Failure] | None:
        with suppress(Empty):
            return self._answers.get(timeout=timeout)
        return None

    def close(self) -> None:
        """Do nothing: no connection outlives its request."""

    def _ask(
        self,
        node: int,
        payload: bytes,
        timeout: float,
        answers: SimpleQueue[tuple[int, bytes | Failure]],
    ) -> None:
        try:
            answers.put((node, ask(self._paths[node], payload, self._limit, timeout)))
        except FederationError as error:
            answers.put((node, Failure(str(error))))


def _listens(path: str | Path) -> bool:
    with suppress(FederationError), connect(path):
        return True
    return False
