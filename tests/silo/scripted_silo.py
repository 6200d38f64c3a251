"""A silo that trains nothing: it moves what trains by amounts that tests can foresee."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

import torch
from torch import Tensor

from fedtt_lightning import __version__
from fedtt_lightning.federation import AdapterSchema, AdapterState
from fedtt_lightning.silo.local_socket import LocalServer, Request
from fedtt_lightning.silo.messages import (
    PROTOCOL,
    Done,
    Hello,
    Here,
    Message,
    Refused,
    Train,
    Update,
    decode,
    encode,
)
from fedtt_lightning.silo.payloads import read_values, unpack_names

Reply = Message | bytes | None


def shift(client: int, round: int) -> float:
    return 0.01 * (client + 1) * (round + 1)


class ScriptedSilo:
    """Answers at its socket in a thread.

    `reply` may be changed at any time: it gets a Train and returns a message, bytes, or None for
    no answer at all, as long as the silo lives; `hello`, too, which answers to Hello.
    """

    def __init__(
        self, path: Path, client: int, examples: list[int], settings: dict[str, str]
    ) -> None:
        self.path = path
        self.client = client
        self.here = Here(
            __version__, PROTOCOL, client, len(examples), examples[client], dict(settings), None
        )
        self.tensors: dict[str, Tensor] = {}
        self.reply: Callable[[Train], Reply] = self.update
        self.hello: Callable[[], Reply] = lambda: self.here
        self.heard: list[Message] = []
        self._server = LocalServer(path, 1 << 20)
        self._kept: list[Request] = []
        self._ending = False
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        if not self._ending:
            self._ending = True
            self._thread.join()
            self._server.close()
            for request in self._kept:
                request._connection.close()

    def update(self, ask: Train) -> Update:
        schema = AdapterSchema.of(self.tensors)
        names = unpack_names(ask.trained, schema.names)
        moved = {n: t + shift(self.client, ask.round) for n, t in self.tensors.items()}
        payload = AdapterState.capture(moved, schema.select(names)).to_bytes()
        loss = float(self.client)
        examples = self.here.examples
        return Update(ask.run, ask.round, self.client, examples, loss, 0.5, None, payload)

    def asks(self) -> list[Train]:
        return [message for message in self.heard if isinstance(message, Train)]

    def _serve(self) -> None:
        while not self._ending:
            if (request := self._server.receive(0.1)) is None:
                continue
            message = decode(request.payload, 1 << 20)
            self.heard.append(message)
            reply: Reply = message  # to Done and Refused
            if isinstance(message, Hello):
                reply = self.hello()
            elif isinstance(message, Train):
                schema = AdapterSchema.of(self.tensors)
                changed = unpack_names(message.changed, schema.names)
                self.tensors |= read_values(message.payload, schema, changed).clone().tensors()
                reply = self.reply(message)
            else:
                assert isinstance(message, Done | Refused)
            if reply is None:
                self._kept.append(request)
            else:
                request.reply(reply if isinstance(reply, bytes) else encode(reply))


def expected(
    start: Mapping[str, Tensor],
    examples: list[int],
    trained: Callable[[int], frozenset[str]],
    answered: list[list[int]],
) -> dict[str, Tensor]:
    """What averaging gives, if in each round these clients' answers count."""
    tensors = {name: tensor.clone() for name, tensor in start.items()}
    for round, clients in enumerate(answered):
        total = sum(examples[client] for client in clients)
        moves = [examples[client] * shift(client, round) for client in clients]
        for name in trained(round) if clients else ():
            tensors[name] += torch.tensor(sum(moves) / total, dtype=torch.float64)
    return tensors


def private_folder(path: Path) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    os.chmod(path, 0o700)
    return path
