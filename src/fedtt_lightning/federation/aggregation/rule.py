"""What an aggregation rule is: how the updates of a round become one update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

import numpy as np

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState


class AggregationRule(ABC):
    """Takes the updates of a round one by one and gives the update of the global adapter.

    `count` is the number of updates since `open` or `reset`. A rule holds a round's state only
    between `open` and `result`, and perhaps what it learns over rounds; all of it is in
    `state_dict`, so that a run can stop anywhere.
    `replaces_factors` tells that its result is a new factorization, in whose entries the steps of a
    server optimizer would mean nothing. `companion` names the callback class that a rule needs.
    """

    count: int = 0
    replaces_factors: bool = False
    companion: str | None = None

    def __repr__(self) -> str:
        settings = {k: v for k, v in sorted(vars(self).items()) if _is_setting(k)}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:  # noqa: B027
        """Raise ConfigError if the rule does not fit the adapter or the cohort.

        Args:
            schema: all trainable tensors.
            cohort: fewest updates that a round can have, None if that is not known.
        """

    def check_trained(self, trained: Collection[str], round: int) -> None:  # noqa: B027
        """Raise ConfigError if nothing comes of what trains and travels in a round (0-based)."""

    def problem(self, updates: int) -> str | None:
        """Tell why the rule cannot work with so many updates, or None if it can."""
        return None

    def open(self, round: int) -> None:
        """Begin a round (0-based); rules that draw random numbers key them by it."""
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Forget the updates of a round."""

    @abstractmethod
    def add(self, client: int, start: AdapterState, update: AdapterState, weight: float) -> None:
        """Count a client's update.

        Args:
            start: what the client began from, all names, in the model's dtypes.
            update: new minus start of the names that travelled, float64 buffers.
            weight: the client's weight, > 0.
        """

    @abstractmethod
    def result(self, old: AdapterState) -> AdapterState:
        """Return the update of the global adapter `old`, float64 buffers, any subset of its names.

        Raises:
            FederationError: the round has too few updates for the rule.
        """

    def empty(self, schema: AdapterSchema) -> AdapterState | None:
        """Return what a round without a single client does to the adapter, None for nothing.

        Args:
            schema: the tensors that would have travelled.
        """
        return None

    def metrics(self) -> dict[str, float]:
        """Return the rule's own numbers of the round that was closed last, by metric name."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the round's state as plain numbers, lists and tensors."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""

    # Clients of different rank: rules that aggregate operators, or pad, serve them.

    def check_ranks(self, schema: AdapterSchema, ranks: np.ndarray) -> None:
        """Raise ConfigError unless clients of these ranks can be aggregated."""
        raise ConfigError(
            f"federation.ranks gives clients ranks of their own, which {type(self).__name__} "
            "cannot aggregate: set federation.aggregation to TTRounding for TT adapters, or to "
            "FlexLoRA or HetLoRA for LoRA"
        )

    def shrink(self, adapter: AdapterState, rank: int) -> AdapterState:
        """Return the adapter at a smaller rank, padded with zeros to the shapes it had."""
        raise NotImplementedError

    def message_schema(self, schema: AdapterSchema, rank: int) -> AdapterSchema:
        """Return the shapes that travel at a rank."""
        raise NotImplementedError


def _is_setting(name: str) -> bool:
    return not name.startswith("_") and name != "count"
