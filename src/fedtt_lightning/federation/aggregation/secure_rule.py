"""Rules that need no more than a sum of integers, which clients can add up in secret."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.aggregation.rule import AggregationRule


class SecureRule(AggregationRule):
    """A rule whose two halves can be apart: clients write integers, the server reads their sum.

    A simulation calls `add`. In a federation of several machines each client calls `message`, a
    protocol adds up what comes of it modulo `2^bits`, and the server hands the sum to `take`.
    """

    @property
    @abstractmethod
    def bits(self) -> int | None:
        """The modulus is `2^bits`; None if the rule is set to add up plain numbers."""

    def fewest(self, clients: int) -> int:
        """Return over how many of so many clients there may be a sum; more than that for never."""
        counts = range(1, clients + 1)
        return next((n for n in counts if self.problem(n) is None), clients + 1)

    @abstractmethod
    def size(self, schema: AdapterSchema) -> int:
        """Return how many integers a client sends for these tensors."""

    @abstractmethod
    def message(self, client: int, update: AdapterState, weight: float) -> Tensor:
        """Return what a client sends, int64 (size,), each from 0 to `2^bits - 1`; see `add`.

        Raises:
            FederationError: the update or the weight does not fit.
        """

    @abstractmethod
    def take(self, total: Tensor, clients: int, schema: AdapterSchema) -> None:
        """Count the messages of `clients` clients, of which only the sum is known.

        Args:
            total: their sum modulo `2^bits`, int64 (size,).
            schema: the tensors that travelled.
        """
