"""The server's three further exchanges of a round under secure aggregation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import FederatedLoop, SecureRule
from fedtt_lightning.silo.inquiry import Inquiry
from fedtt_lightning.silo.messages import Refused, Stage, decode, encode
from fedtt_lightning.silo.secure_answers import secure_purpose
from fedtt_lightning.silo.secure_letters import integer_bytes
from fedtt_lightning.silo.secure_server import SecureServer
from fedtt_lightning.silo.transport import Failure, Transport

_OVERHEAD = 1 << 12  # bytes of a message beside its payload, at most


class SecureCollection:
    """Gets the sum of the messages of clients that have answered with their public keys.

    Args:
        transport: reaches the silos.
        nodes: the node of each client.
        run: name of the run.
        round: from 0.
        bits: of the modulus.
        size: integers a client sends.
        fewest: clients below which there is no sum.

    Attributes:
        lost: clients that are not in the sum, and why.
        members: those that are.
        sent, received: bytes of the messages.
    """

    def __init__(
        self,
        transport: Transport,
        nodes: Mapping[int, int],
        run: str,
        round: int,
        bits: int,
        size: int,
        fewest: int,
    ) -> None:
        self._transport, self._nodes = transport, nodes
        self._run, self._round = run, round
        self._server = SecureServer(secure_purpose(run, round), bits, size, fewest)
        self._largest = size * integer_bytes(bits) + 256 * len(nodes) + _OVERHEAD
        self.lost: dict[int, str] = {}
        self.members: list[int] = []
        self.sent = self.received = 0

    def run(self, keys: Mapping[int, bytes], deadline: float) -> Tensor:
        """Return the sum modulo 2^bits, int64 (size,), over the clients of `keys` that are left.

        Args:
            keys: what clients answered to `Train`.
            deadline: seconds that silos have in each stage.

        Raises:
            FederationError: too few are left.
        """
        server = self._server
        left = [
            c for c, answer in keys.items() if self._take(c, partial(server.add_keys, c), answer)
        ]
        left = self._stage(1, dict.fromkeys(left, server.book()), server.add_shares, deadline)
        letters = {client: server.mail(client) for client in left}
        left = self._stage(2, letters, server.add_masked, deadline)
        survivors = dict.fromkeys(left, server.survivors())
        self._stage(3, survivors, server.add_revealed, deadline)
        total = torch.from_numpy(server.total().astype("int64"))
        self.members = sorted(server.members)
        for client in self.members:
            self.lost.pop(client, None)  # who is lost after its vector has come is in the sum
        return total

    def _stage(
        self,
        stage: int,
        payloads: Mapping[int, bytes],
        add: Callable[[int, bytes], None],
        deadline: float,
    ) -> list[int]:
        """Ask clients, let the server's half have what they answer, and return those it took."""
        letters = {
            self._nodes[client]: encode(Stage(self._run, self._round, stage, payload))
            for client, payload in payloads.items()
        }
        clients = {self._nodes[client]: client for client in payloads}
        self.sent += sum(map(len, letters.values()))
        waiting, left = set(payloads), []
        for node, answer in self._transport.exchange(letters, deadline):
            client = clients[node]
            waiting.discard(client)
            if isinstance(answer, Failure):
                self.lost[client] = answer.reason
                continue
            self.received += len(answer)
            if self._take(client, partial(self._read, stage, client, add), answer):
                left.append(client)
        self.lost |= dict.fromkeys(waiting, f"no answer within {deadline:g} s")
        return sorted(left)

    def _read(
        self, stage: int, client: int, add: Callable[[int, bytes], None], data: bytes
    ) -> None:
        answer = decode(data, self._largest)
        if isinstance(answer, Refused):
            raise FederationError(answer.reason)
        expected = (self._run, self._round, stage)
        if not isinstance(answer, Stage) or (answer.run, answer.round, answer.stage) != expected:
            raise FederationError(f"its answer is not one to stage {stage} of secure aggregation")
        add(client, answer.payload)

    def _take(self, client: int, add: Callable[[bytes], None], answer: bytes) -> bool:
        try:
            add(answer)
        except FederationError as error:
            self.lost[client] = str(error)
            return False
        return True


def add_up(
    transport: Transport,
    nodes: Mapping[int, int],
    inquiry: Inquiry,
    keys: Mapping[int, bytes],
    loop: FederatedLoop,
    run: str,
    deadline: float,
) -> None:
    """Let the aggregation have the sum over a round's clients, and leave out those it is not over.

    Args:
        inquiry: whose results are those of the clients in `keys`.
    """
    rule, plan, schema = loop.aggregation, loop.plan, loop.travelling
    assert isinstance(rule, SecureRule) and rule.bits is not None and plan is not None
    if not keys:
        return
    fewest = max(plan.needed, rule.fewest(len(plan.visits)))
    nodes = {client: nodes[client] for client in keys}
    collection = SecureCollection(
        transport, nodes, run, loop.round, rule.bits, rule.size(schema), fewest
    )
    reason = ""
    try:
        total = collection.run(keys, deadline)
        rule.take(total, len(collection.members), schema)
    except FederationError as error:
        reason = str(error)
    for client in keys:
        if client not in collection.members:
            inquiry.lose(client, "dropped", collection.lost.get(client, reason))
    inquiry.sent += collection.sent
    inquiry.received += collection.received
