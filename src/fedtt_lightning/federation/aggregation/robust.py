"""Rules that bear some false updates because they look at all updates of a round together."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.aggregation.rule import AggregationRule


class AllUpdates(AggregationRule):
    """A rule that needs all updates of a round at once, and counts each client the same.

    Keeps them in float64: memory of cohort × adapter. They are taken in the order of the clients'
    numbers, so that the result does not depend on the order in which they arrive.

    Examples:
        >>> class Midrange(AllUpdates):
        ...     def combine(self, updates):
        ...         return (updates.amin(0) + updates.amax(0)) / 2
        >>> rule = Midrange()
        >>> start = AdapterState.capture({"core": torch.zeros(2)})
        >>> for client, change in enumerate([[1, 0], [2, 0], [9, 4]]):
        ...     update = AdapterState.capture({"core": torch.tensor(change, dtype=torch.float64)})
        ...     rule.add(client, start, update, weight=1.0)
        >>> rule.result(start).tensors()["core"].tolist()
        [5.0, 2.0]
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._schema: AdapterSchema | None = None
        self._updates: dict[int, dict[str, Tensor]] = {}

    @property
    def count(self) -> int:  # type: ignore[override]
        """Number of updates since `reset`."""
        return len(self._updates)

    @abstractmethod
    def combine(self, updates: Tensor) -> Tensor:
        """Return one update, float64 (values,), for those of the clients, (clients, values).

        Values are those of all tensors that travelled, one after another.
        """

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:
        if cohort is not None and (problem := self.problem(cohort)):
            raise ConfigError(
                f"federation.aggregation: {problem}: {self.remedy(cohort)}, or choose more clients "
                "a round (where rounds differ, federation.min_clients sets the fewest)"
            )

    def remedy(self, clients: int) -> str:
        """Tell what to change for so many updates, of which `problem` complains."""
        return "use WeightedMean or NormBoundedMean"

    def add(self, client: int, start: AdapterState, update: AdapterState, weight: float) -> None:
        self._schema = update.schema
        self._updates[client] = {k: buffer.double() for k, buffer in update.buffers.items()}

    def result(self, old: AdapterState) -> AdapterState:
        if problem := self.problem(self.count):
            raise FederationError(f"the round has too few usable updates: {problem}")
        assert self._schema is not None
        rows = [self._updates[client] for client in sorted(self._updates)]
        together = torch.stack([torch.cat(list(row.values())) for row in rows])
        sizes = [buffer.numel() for buffer in rows[0].values()]
        parts = self.combine(together).split(sizes)
        return AdapterState(self._schema, dict(zip(rows[0], parts, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        return {
            "schema": None if self._schema is None else self._schema.rows(),
            "updates": {client: dict(buffers) for client, buffers in self._updates.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows = state["schema"]
        self._schema = None if rows is None else AdapterSchema.from_rows(rows)
        self._updates = {client: dict(buffers) for client, buffers in state["updates"].items()}


class CoordinateMedian(AllUpdates):
    """Median of each value over the clients; bears fewer than half of them being false.

    Yin et al., arXiv 1803.01498. Of an even number, the mean of the two in the middle.
    """

    def combine(self, updates: Tensor) -> Tensor:
        ordered, half = updates.sort(dim=0).values, len(updates) // 2
        return ordered[half] if len(updates) % 2 else (ordered[half - 1] + ordered[half]) / 2

    def problem(self, clients: int) -> str | None:
        if clients >= 3:
            return None
        return f"the median of {clients} updates bears no false one, 3 are needed"


class TrimmedMean(AllUpdates):
    """Mean of each value over the clients without the largest and smallest ones.

    Yin et al., arXiv 1803.01498; bears as many false clients as are cut on a side.

    Args:
        trim: what is cut on each side: a number of clients, or a fraction of the round's clients
            below 0.5, rounded down.

    Raises:
        ConfigError: nothing is cut, or nothing is left.
    """

    def __init__(self, trim: int | float = 0.1) -> None:
        super().__init__()
        self.trim = trim

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:
        if not (self.trim >= 1 if isinstance(self.trim, int) else 0 < self.trim < 0.5):
            raise ConfigError(
                f"federation.aggregation.trim is {self.trim}, but must be a number of clients (1 "
                "or more), or a fraction between 0 and 0.5, to cut on each side"
            )
        super().check(schema, cohort)

    def cut(self, clients: int) -> int:
        """Return how many of so many clients are cut on each side."""
        if isinstance(self.trim, int):
            return self.trim
        return int(self.trim * clients + 1e-9)  # 0.29 of 100 is 29, not 28.999…

    def remedy(self, clients: int) -> str:
        if clients < 3:
            return super().remedy(clients)
        return f"set its trim to a whole number from 1 to {(clients - 1) // 2}"

    def combine(self, updates: Tensor) -> Tensor:
        cut = self.cut(len(updates))
        return updates.sort(dim=0).values[cut : len(updates) - cut].mean(dim=0)

    def problem(self, clients: int) -> str | None:
        cut = self.cut(clients)
        if cut == 0:
            return f"trim={self.trim} cuts none of {clients} updates, so it bears no false one"
        if 2 * cut >= clients:
            return f"trim={self.trim} cuts {cut} on each side and leaves nothing of {clients}"
        return None
