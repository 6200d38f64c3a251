"""The weighted mean from sums of integers, as a server under secure aggregation computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.aggregation.flat import flatten, unflatten
from fedtt_lightning.federation.aggregation.secure_rule import SecureRule
from fedtt_lightning.federation.fixed_point import FixedPointCodec, Grid, rounding_error
from fedtt_lightning.federation.secure_sum import ModularSum, SecureSum


class SecureMean(SecureRule):
    """Weighted mean in fixed point: the server gets the sums of `w·Δ` and of `w`, nothing else.

    As in Flower's SecAgg+. A client sends `w / max_weight · Δ` and its own `w / max_weight`, each
    rounded to the codec's grid and added modulo 2^bits. The metric `secure/quantization_error` is
    what rounding changed in a round's weighted sum, relative to its length (L2); the simulation
    measures it with sums that a real server has not got, and so does not log.

    Args:
        range: largest magnitude of a value of an update; a larger one of the largest client ends
            the run.
        clients: the most that can answer in a round; fewer makes the grid finer.
        max_weight: the largest weight, with `weighting: examples` of the largest client.
        codec: the integers; 32 bits if not given.
        transport: the protocol that adds them; one without masks if not given.
    """

    def __init__(
        self,
        range: float = 1.0,
        clients: int = 100,
        max_weight: float = 1000.0,
        codec: FixedPointCodec | None = None,
        transport: SecureSum | None = None,
    ) -> None:
        self.range = range
        self.clients = clients
        self.max_weight = max_weight
        self.codec = codec or FixedPointCodec()
        self.transport = transport or ModularSum()
        self._round = 0
        self._quantization_error: float | None = None
        self._forget()

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:
        name = "federation.aggregation"
        for key in ("range", "max_weight"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ConfigError(f"{name}.{key} is {getattr(self, key)}, but must be > 0")
        if self.clients < max(cohort or 1, 1):
            raise ConfigError(
                f"{name}.clients is {self.clients}, but a round has {max(cohort or 1, 1)} clients "
                "or more: raise it"
            )
        self.codec.check(self.clients)

    def open(self, round: int) -> None:
        self._round = round
        self._quantization_error = None
        self.reset()

    def reset(self) -> None:
        self.transport.open(self._round, self.codec.bits)
        self._forget()

    def _forget(self) -> None:
        self.count = 0
        self._schema: AdapterSchema | None = None
        self._exact: Tensor | None = None  # the float64 sum, only to measure the rounding

    @property
    def bits(self) -> int:
        return self.codec.bits

    def size(self, schema: AdapterSchema) -> int:
        return schema.numel + 1

    def add(self, client: int, start: AdapterState, update: AdapterState, weight: float) -> None:
        self._check_room(1)
        values = self._weighted(client, update, weight)
        self.transport.add(client, self._grid.encode(values))
        self._exact = values if self._exact is None else self._exact + values
        self._schema = update.schema
        self.count += 1

    def message(self, client: int, update: AdapterState, weight: float) -> Tensor:
        return self._grid.encode(self._weighted(client, update, weight))

    def take(self, total: Tensor, clients: int, schema: AdapterSchema) -> None:
        self._check_room(clients)
        self.transport.add(-1, total)  # of nobody in particular
        self._schema = schema
        self.count += clients

    def _check_room(self, clients: int) -> None:
        if self.count + clients > self.clients:
            raise FederationError(
                f"more than federation.aggregation.clients={self.clients} clients have answered, "
                "for whose sum the fixed-point numbers have no room: raise it"
            )

    def _weighted(self, client: int, update: AdapterState, weight: float) -> Tensor:
        """Return `w · Δ` and `w`, float64, in units of the largest weight."""
        if weight > self.max_weight:
            raise FederationError(
                f"client {client} weighs {weight:g}, more than federation.aggregation.max_weight="
                f"{self.max_weight:g}: raise it"
            )
        values = flatten(update)
        share = weight / self.max_weight
        # The weight, in units of the range, so that one grid serves both.
        return torch.cat([values * share, values.new_tensor([share * self.range])])

    def result(self, old: AdapterState) -> AdapterState:
        assert self._schema is not None
        total = self._grid.decode(self.transport.total())
        if self._exact is not None:
            self._quantization_error = rounding_error(total[:-1], self._exact[:-1])
        weight = float(total[-1]) / self.range
        if weight <= 0:
            raise FederationError(
                "the clients' weights are lost in rounding: lower federation.aggregation.max_weight"
                ", or raise federation.aggregation.codec.bits"
            )
        return unflatten(total[:-1] / weight, self._schema)

    def metrics(self) -> dict[str, float]:
        error = self._quantization_error
        return {} if error is None else {"secure/quantization_error": error}

    @property
    def _grid(self) -> Grid:
        return self.codec.grid(self.range, self.clients, "federation.aggregation.range")

    def state_dict(self) -> dict[str, Any]:
        return {
            "round": self._round,
            "count": self.count,
            "schema": None if self._schema is None else self._schema.rows(),
            "exact": self._exact,
            "transport": self.transport.state_dict(),
            "quantization_error": self._quantization_error,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._round, self.count = state["round"], state["count"]
        rows = state["schema"]
        self._schema = None if rows is None else AdapterSchema.from_rows(rows)
        self._exact = state["exact"]
        self._quantization_error = state["quantization_error"]
        self.transport.load_state_dict(state["transport"])
