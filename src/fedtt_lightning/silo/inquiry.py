"""One round's requests to silos, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from typing import Literal

from fedtt_lightning.callbacks.exchange import VisitResult
from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.messages import Train, encode
from fedtt_lightning.silo.roster import GREETING, Roster
from fedtt_lightning.silo.transport import Failure, Transport

Fate = Literal["dropped", "late", "rejected"]
_LOOK = 0.5  # seconds between two looks for silos that come back


class Inquiry:
    """Asks silos for a round's visits, all at once, until they have answered or it is too late.

    A silo that has gone, before or after it was asked, is greeted when it is back, and asked again.
    One that fails again and again, each time soon after it was asked, counts as gone all the while.

    Args:
        write: gives the request to a client, with all of the adapter if told so.
        read: gives what a client's answer holds, None if it needs all of the adapter; raises
            FederationError if it is not what was asked for.

    Attributes:
        results: of the clients that answered as they should.
        lost: the others: `dropped` have gone, `late` have not answered by the deadline, `rejected`
            answered something else.
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
        self._end = self._grace = 0.0
        self._absent: set[int] = set()  # clients that may come back
        self._failing: dict[int, float] = {}  # clients' first failures of those in a row
        self._greeted: dict[int, float] = {}  # when
        self._asked: dict[int, tuple[Train, bool, float]] = {}  # with all of the adapter? when?
        self.results: dict[int, VisitResult] = {}
        self.lost: dict[Fate, list[int]] = {"dropped": [], "late": [], "rejected": []}
        self.sent = self.received = 0

    def run(self, clients: Sequence[int], deadline_s: float, grace_s: float) -> None:
        """Ask these clients; return when all have answered, or after `deadline_s` seconds.

        Args:
            grace_s: seconds that one which has gone may take to come back.
        """
        self._end, self._grace = monotonic() + deadline_s, grace_s
        self._transport.forget()
        self._roster.look()
        for client in clients:
            if client in self._roster.joined:
                self._ask(client)
            else:
                self._absent.add(client)
        look = 0.0
        while self._asked or self._absent or self._awaits_greeted():
            if (now := monotonic()) >= self._end:
                break
            if now >= look and self._absent:
                self._look_for_absent(now)
                look = now + _LOOK
            if (reply := self._transport.receive(min(self._end - now, _LOOK))) is not None:
                self._hear(*reply)
        for client in sorted(self._asked):
            self.lose(client, "late", f"no answer within {deadline_s:g} s")
        self._drop({*self._absent, *self._greeted})

    def _look_for_absent(self, now: float) -> None:
        """Greet who is back, and drop who has gone for longer than the grace."""
        for node in self._transport.nodes():
            if (client := self._transport.silos[node]) in self._absent:
                self._absent.remove(client)
                self._greeted[client] = now
                lifetime = min(self._end - now, GREETING)
                self._transport.send(node, self._roster.hello, lifetime)
        self._drop({client for client in self._absent if self._is_over(client)})

    def _awaits_greeted(self) -> bool:
        """Tell whether a silo that has not yet said who it is holds up the round.

        One that has only just gone may take the whole grace: its machine may be busy starting it.
        """
        if not all(map(self._is_over, self._greeted)):
            return True
        return self._roster.is_patient(self._greeted)

    def _is_over(self, client: int) -> bool:
        """Tell whether a client that is absent has been so for longer than the grace."""
        since = min(self._roster.left.get(client, -inf), self._failing.get(client, inf))
        return since + self._grace <= monotonic()

    def _ask(self, client: int, everything: bool = False) -> None:
        ask = self._write(client, everything)
        letter = encode(ask)
        self.sent += len(letter)
        self._asked[client] = ask, everything, monotonic()
        self._transport.send(self._roster.joined[client], letter, self._end - monotonic())

    def _hear(self, node: int, answer: bytes | Failure) -> None:
        client = self._transport.silos[node]
        if self._greeted.pop(client, None) is not None:
            refused = self._roster.admit(node, answer)
            if client in self._roster.joined:
                self._ask(client)
                return
            self._absent.add(client)
            if refused is not None or self._is_over(client):
                self._drop({client})
            if refused is not None:
                self._transport.send(node, encode(refused), self._end - monotonic())
        elif client in self._asked:
            ask, everything, when = self._asked.pop(client)
            if isinstance(answer, Failure):
                self._roster.leave(client, answer.reason)
                self._absent.add(client)
                if (now := monotonic()) > when + self._grace:
                    self._failing.pop(client, None)
                self._failing.setdefault(client, now)
                if self._is_over(client):
                    self._drop({client})
            else:
                self.received += len(answer)
                self._take(client, answer, ask, everything)

    def _take(self, client: int, answer: bytes, ask: Train, everything: bool) -> None:
        """Keep what a client answered, or ask it for the rest."""
        try:
            result = self._read(answer, ask, client)
            if result is None and everything:
                raise FederationError("it needs all of the adapter, which it has got")
        except FederationError as error:
            self.lose(client, "rejected", str(error))
            return
        if result is None:  # rare: a silo that has lost what it had
            self._ask(client, everything=True)
        else:
            self.results[client] = result

    def _drop(self, clients: set[int]) -> None:
        for client in sorted(clients):
            self.lose(client, "dropped", self._roster.trouble.get(client, "it has gone"))
            self._absent.discard(client)
            self._greeted.pop(client, None)

    def lose(self, client: int, fate: Fate, reason: str) -> None:
        """Leave a client out of the round."""
        self.results.pop(client, None)
        self.lost[fate].append(client)
        self._roster.leave(client, reason)
        print(f"client {client} is {fate}: {reason}", flush=True)
