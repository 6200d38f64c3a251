"""A small real protocol behind `SecureSum`: masks of pairs of clients, which cancel in the sum.

Bonawitz et al. (CCS 2017) without key agreement, secret shares and double masks: each pair of
clients shares a seed from the start, and survivors reveal those they share with a dropped client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import SecureSum, generator_for


class PairwiseMaskedSum(SecureSum):
    """Keeps every message as the server would see it.

    Args:
        clients: who set up masks for the round; any of them may drop out.
        key: what the pairs' seeds are made from.
        fewest: answers without which the server gets no sum.
    """

    def __init__(self, clients: Sequence[int], key: int = 0, fewest: int = 2) -> None:
        self.clients, self.key, self.fewest = tuple(clients), key, fewest
        self.open(0, 32)

    def open(self, round: int, bits: int) -> None:
        self.round, self.bits = round, bits
        self.messages: dict[int, Tensor] = {}

    def add(self, client: int, values: Tensor) -> None:
        message = values.clone()
        for other in self.clients:
            if other != client:
                message += self._mask(client, other, len(values))
                message %= 2**self.bits
        self.messages[client] = message

    def total(self) -> Tensor:
        if len(self.messages) < self.fewest:
            raise FederationError(f"{len(self.messages)} answers are too few for a secure sum")
        total = torch.zeros_like(next(iter(self.messages.values())))
        for survivor, message in self.messages.items():
            total = (total + message) % 2**self.bits
            for dropped in {*self.clients} - self.messages.keys():
                mask = self._mask(survivor, dropped, len(message))
                total = (total - mask) % 2**self.bits
        return total

    def _mask(self, one: int, other: int, size: int) -> Tensor:
        """Return what `one` adds for the pair: the negative of what `other` adds."""
        pair = generator_for(self.key, "mask", self.round, *sorted((one, other)))
        mask = torch.from_numpy(pair.integers(0, 2**self.bits, size))
        return mask if one < other else -mask

    def state_dict(self) -> dict[str, Any]:
        return {"round": self.round, "bits": self.bits, "messages": dict(self.messages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.round, self.bits = state["round"], state["bits"]
        self.messages = dict(state["messages"])
