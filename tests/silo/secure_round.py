"""One round of secure aggregation with all halves in this process, and clients that vanish."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from fedtt_lightning.silo.secure_client import SecureClient
from fedtt_lightning.silo.secure_server import SecureServer

STAGES = ("keys", "shares", "masked", "revealed")


class SecureRound:
    """Keeps every message that passes the server.

    Args:
        rows: each client's vector, uint64 (n,).
        vanish: the stage whose message a client fails to send, by client.
        fewest: clients below which there is no sum.
    """

    def __init__(
        self,
        rows: Mapping[int, np.ndarray],
        vanish: Mapping[int, str] | None = None,
        bits: int = 32,
        fewest: int = 2,
    ) -> None:
        self.rows, self.bits, self.vanish = rows, bits, vanish or {}
        self.clients = {client: SecureClient(client, 9, b"round 3") for client in rows}
        size = len(next(iter(rows.values())))
        self.server = SecureServer(b"round 3", bits, size, fewest)
        self._done: list[str] = []
        self.sent: dict[str, dict[int, bytes]] = {stage: {} for stage in STAGES}

    def left(self, stage: str) -> list[int]:
        """Return the clients that send their message of a stage."""
        gone = STAGES[: STAGES.index(stage) + 1]
        return [client for client in self.rows if self.vanish.get(client) not in gone]

    def keys(self) -> None:
        for client in self.left("keys"):
            self.sent["keys"][client] = answer = self.clients[client].keys()
            self.server.add_keys(client, answer)

    def shares(self) -> None:
        book = self.server.book()
        for client in self.left("shares"):
            self.sent["shares"][client] = answer = self.clients[client].share(book)
            self.server.add_shares(client, answer)

    def masked(self) -> None:
        mails = {client: self.server.mail(client) for client in self.left("shares")}
        for client in self.left("masked"):
            row, half = self.rows[client], self.clients[client]
            self.sent["masked"][client] = answer = half.masked(mails[client], row, self.bits)
            self.server.add_masked(client, answer)

    def revealed(self) -> None:
        survivors = self.server.survivors()
        for client in self.left("revealed"):
            self.sent["revealed"][client] = answer = self.clients[client].reveal(survivors)
            self.server.add_revealed(client, answer)

    def until(self, stage: str) -> SecureRound:
        """Go through the stages before one, but for those that are over."""
        for name in STAGES[len(self._done) : STAGES.index(stage)]:
            getattr(self, name)()
            self._done.append(name)
        return self

    def total(self) -> np.ndarray:
        self.until("revealed").revealed()
        return self.server.total()


def vectors(clients: Collection[int], bits: int = 32, size: int = 5) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(len(clients))
    top = 2**bits
    return {client: rng.integers(0, top, size, dtype=np.uint64) for client in clients}
