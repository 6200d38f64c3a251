"""How the server reaches its silos: opaque bytes to nodes, and their answers as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Failure:
    """Why no answer of a node will come, in one line."""

    reason: str


class Transport(Protocol):
    """Carries requests to the nodes of a federation, each of which has a number of its own.

    Attributes:
        silos: which silo each node is, by its place in the configuration; no node can be another.
    """

    @property
    def silos(self) -> Mapping[int, int]: ...

    def nodes(self) -> list[int]:
        """Return the nodes that can be reached now."""

    def exchange(
        self, payloads: Mapping[int, bytes], deadline_s: float
    ) -> Iterator[tuple[int, bytes | Failure]]:
        """Send each node its payload, and yield each node's answer when it arrives.

        It ends when all have answered or failed, and at the deadline; nothing is yielded of nodes
        that have not answered by then.

        Args:
            payloads: by node.
            deadline_s: seconds from now.
        """

    def close(self) -> None:
        """End what was started; no other call may follow."""
