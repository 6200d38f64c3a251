"""How the server reaches its silos: opaque bytes to nodes, and their answers as they come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import monotonic


@dataclass(frozen=True)
class Failure:
    """Why no answer of a node will come, in one line."""

    reason: str


class Transport(ABC):
    """Carries requests to the nodes of a federation, each of which has a number of its own.

    Attributes:
        silos: which silo each node is, by its place in the configuration; no node can be another.
    """

    silos: Mapping[int, int]

    @abstractmethod
    def nodes(self) -> list[int]:
        """Return the nodes that can be reached now."""

    @abstractmethod
    def forget(self) -> None:
        """Let no answer arrive any more to what was sent until now."""

    @abstractmethod
    def send(self, node: int, payload: bytes, lifetime: float) -> None:
        """Send a node its payload, to which one answer arrives, or why there is none.

        Args:
            node: to which nothing else is under way.
            payload: any bytes.
            lifetime: seconds from now in which an answer is of use.
        """

    @abstractmethod
    def receive(self, timeout: float) -> tuple[int, bytes | Failure] | None:
        """Return the next answer with its node, or None if `timeout` seconds pass without one."""

    @abstractmethod
    def close(self) -> None:
        """End what was started; no other call may follow."""

    def exchange(
        self, payloads: Mapping[int, bytes], deadline_s: float
    ) -> Iterator[tuple[int, bytes | Failure]]:
        """Send each node its payload, and yield each node's answer when it arrives.

        It ends when all have answered or failed, and at the deadline; nothing is yielded of nodes
        that have not answered by then. What was sent before is forgotten.

        Args:
            payloads: by node.
            deadline_s: seconds from now.
        """
        end = monotonic() + deadline_s
        self.forget()
        for node, payload in payloads.items():
            self.send(node, payload, max(end - monotonic(), 0.0))
        waiting = set(payloads)
        while waiting and (left := end - monotonic()) > 0:
            if (answer := self.receive(left)) is not None:
                waiting.discard(answer[0])
                yield answer
