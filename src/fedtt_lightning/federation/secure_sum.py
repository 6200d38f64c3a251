"""Sums of which no single term is seen: what a secure aggregation protocol has to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from fedtt_lightning.errors import FederationError


class SecureSum(ABC):
    """Adds the clients' vectors of integers modulo 2^bits and gives out their sum only.

    A protocol, such as pairwise masks (Bonawitz et al., CCS 2017) or Flower's SecAgg+, plugs in
    here. `add` is a client's part: it masks the vector and sends it. `total` is the server's: it
    adds the messages, takes out what masks are left because their other half belongs to a client
    that never answered, and so gives the exact sum over those that did. Masks belong to one round,
    and a protocol may refuse a sum over too few.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @abstractmethod
    def open(self, round: int, bits: int) -> None:
        """Begin a round (0-based) whose integers are modulo 2^bits, at most 62 bits."""

    @abstractmethod
    def add(self, client: int, values: Tensor) -> None:
        """Send a client's vector, int64 (n,), each value from 0 to 2^bits - 1; once a round."""

    @abstractmethod
    def total(self) -> Tensor:
        """Return the sum modulo 2^bits of the vectors that were sent, int64 (n,).

        Raises:
            FederationError: nothing was sent, or less than the protocol needs.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the open round as plain numbers, lists and tensors."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""


class ModularSum(SecureSum):
    """The sum itself, in one process and without masks: what a simulation needs.

    Holds the running sum and never a client's vector, so that nothing can come to depend on one.
    """

    def __init__(self) -> None:
        self.open(0, 32)

    def open(self, round: int, bits: int) -> None:
        self._bits = bits
        self._total: Tensor | None = None

    def add(self, client: int, values: Tensor) -> None:
        total = values if self._total is None else self._total + values
        self._total = total % 2**self._bits

    def total(self) -> Tensor:
        if self._total is None:
            raise FederationError("a secure sum over no client was asked for")
        return self._total

    def state_dict(self) -> dict[str, Any]:
        return {"bits": self._bits, "total": self._total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._bits, self._total = state["bits"], state["total"]
