"""One round's requests to silos, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Literal

from fedtt_lightning.callbacks.exchange import VisitResult
from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.messages import Train, encode
from fedtt_lightning.silo.roster import Roster
from fedtt_lightning.silo.transport import Failure, Transport

Fate = Literal["dropped", "late", "rejected"]


class Inquiry:
    """Asks silos for a round's visits, all at once, until they have answered or it is too late.

    Args:
        write: gives the request to a client, with all of the adapter if told so.
        read: gives what a client's answer holds, None if it needs all of the adapter; raises
            FederationError if it is not what was asked for.

    Attributes:
        results: of the clients that answered as they should.
        lost: the others: `dropped` cannot be reached, `late` have not answered by the deadline,
            `rejected` answered something else.
        sent, received: bytes of the messages.
    """

    def __init__(
        self,
        transport: Transport,
        roster: Roster,
        write: Callable[[int, bool], Train],
        read: Callable[[bytes, Train, int], VisitResult | None],
    ) -> None:
        self._transport = transport
        self._roster = roster
        self._write = write
        self._read = read
        self.results: dict[int, VisitResult] = {}
        self.lost: dict[Fate, list[int]] = {"dropped": [], "late": [], "rejected": []}
        self.sent = self.received = 0

    def run(self, clients: Sequence[int], deadline_s: float) -> None:
        """Ask these clients; return when all have answered, or after `deadline_s` seconds."""
        end = monotonic() + deadline_s
        self._roster.greet()
        silent = set(clients)
        there = [client for client in clients if client in self._roster.joined]
        needs_all = self._ask(there, False, end, silent)
        if needs_all:  # rare: a silo that has lost what it had
            self._ask(needs_all, True, end, silent)
        online = self._transport.nodes() if silent else []
        for client in sorted(silent):
            if self._roster.joined.get(client) in online:
                self._lose(client, "late", f"no answer within {deadline_s:g} s")
            else:
                self._lose(client, "dropped", self._roster.trouble.get(client, "it has gone"))

    def _ask(
        self, clients: Sequence[int], everything: bool, end: float, silent: set[int]
    ) -> list[int]:
        """Ask clients, and take from `silent` those whose fate is known; return who needs all."""
        nodes = {self._roster.joined[client]: client for client in clients}
        asks = {node: self._write(client, everything) for node, client in nodes.items()}
        letters = {node: encode(ask) for node, ask in asks.items()}
        self.sent += sum(map(len, letters.values()))
        needs_all = []
        for node, answer in self._transport.exchange(letters, max(end - monotonic(), 0.0)):
            client = nodes[node]
            if isinstance(answer, Failure):
                silent.discard(client)
                self._lose(client, "dropped", answer.reason)
                continue
            self.received += len(answer)
            try:
                result = self._read(answer, asks[node], client)
                if result is None and everything:
                    raise FederationError("it needs all of the adapter, which it has got")
            except FederationError as error:
                silent.discard(client)
                self._lose(client, "rejected", str(error))
                continue
            if result is None:
                needs_all.append(client)
            else:
                silent.discard(client)
                self.results[client] = result
        return needs_all

    def _lose(self, client: int, fate: Fate, reason: str) -> None:
        self.lost[fate].append(client)
        self._roster.leave(client, reason)
        print(f"client {client} is {fate}: {reason}", flush=True)
