"""A server as plain as can be: asks one silo at its socket, and knows what it must answer."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import torch
from torch import Tensor, nn

from fedtt_lightning import FederatedDataModule
from fedtt_lightning.data import BySize
from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import AdapterSchema, AdapterState, RotatingFactor
from fedtt_lightning.silo.local_socket import ask
from fedtt_lightning.silo.messages import Message, Train, decode, encode
from fedtt_lightning.silo.payloads import adapter_hash, pack_names, schema_hash, write_values
from plain_federation import PlainFederation
from toy import ToyData, ToyModule, toy_data
from toy_run import one_cycle

LIMIT = 1 << 20
EXPERIMENT = 11
ROUNDS = 3


class PlainServer:
    """Asks the silo at a socket.

    Attributes:
        adapter: the toy's first adapter, with which rounds begin unless it is changed.
        private: the names that stay with the silo.
        own: what it must have there.
    """

    def __init__(self, socket: str | Path, run: str = "run-1", private: str = "nothing") -> None:
        self.socket, self.run = socket, run
        torch.manual_seed(3)
        self.module = ToyModule().double()
        tensors = {n: p.detach() for n, p in self.module.named_parameters() if p.requires_grad}
        self.adapter = AdapterState.capture(tensors)
        self.private = frozenset(name for name in tensors if private in name)
        self.own: dict[str, Tensor] = {}

    def say(self, message: Message, seconds: float = 20) -> Message:
        """Return the answer to a message, once the silo listens."""
        end = monotonic() + seconds
        while True:
            try:
                return decode(ask(self.socket, encode(message), LIMIT, seconds), LIMIT)
            except FederationError as error:
                if "no process listens" not in str(error) or monotonic() > end:
                    raise
                sleep(0.05)

    def trained(self, round: int) -> frozenset[str]:
        return RotatingFactor().trained(self.adapter.schema.names, round, EXPERIMENT)

    def request(self, round: int, changed: frozenset[str] | None = None, **other: object) -> Train:
        """Return the request for a round, with all values or those of some names."""
        names = self.adapter.schema.names
        shared = self.adapter.schema.select({*names} - self.private)
        values = frozenset(shared.names) if changed is None else changed
        request = Train(
            run=self.run,
            round=round,
            rounds=ROUNDS,
            experiment=EXPERIMENT,
            schema=schema_hash(self.adapter.schema),
            adapter=adapter_hash(self.adapter.select(shared)),
            trained=pack_names(self.trained(round), names),
            changed=pack_names(values, names),
            payload=write_values(self.adapter, values),
        )
        return replace(request, **other)

    def travelling(self, round: int) -> AdapterSchema:
        return self.adapter.schema.select(self.trained(round) - self.private)

    def move(self, by: float) -> frozenset[str]:
        """Change some of the adapter's values and return their names."""
        names = frozenset(name for name in self.adapter.schema.names if "head" in name)
        for name in names:
            self.adapter.tensors()[name].add_(by)
        return names

    def expected(self, round: int, client: int = 1) -> dict[str, Tensor]:
        """Return the weights after a client's visit, by the plain reference, without a server."""
        data = FederatedDataModule(ToyData(), clients=4, partition=BySize([1, 2, 3, 5]))
        data.setup("fit")
        data.federate(EXPERIMENT)
        x, y = toy_data().tensors
        frozen = {n for n in self.adapter.schema.names if n not in self.trained(round)}
        plain = PlainFederation(
            EXPERIMENT, data.clients, ROUNDS, 4, one_cycle, 2, frozen=lambda _: frozen
        )
        module = copy.deepcopy(self.module)
        params = {n: p for n, p in module.named_parameters() if p.requires_grad}
        AdapterState.capture(self.adapter.tensors() | self.own).copy_into(params)

        def loss(model: nn.Module, batch: list[int]) -> Tensor:
            return nn.functional.cross_entropy(model.net(x[batch]), y[batch])

        plain.visit(module, params, round, client, loss)
        self.own = {name: params[name].detach().clone() for name in self.private}
        return {name: params[name].detach() for name in self.travelling(round).names}
