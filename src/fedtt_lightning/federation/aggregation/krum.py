"""Krum and Multi-Krum: the updates that lie closest to their neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.adapter_state import AdapterSchema
from fedtt_lightning.federation.aggregation.robust import AllUpdates


class MultiKrum(AllUpdates):
    """Mean of the `keep` updates with the lowest scores.

    Blanchard et al., NeurIPS 2017 (arXiv 1703.02757): of n updates, the score of one is the sum of
    the squared distances to its n − f − 2 nearest others, which needs n >= 2f + 3. Distances are
    over all tensors that travelled together. Of equal scores, the lower client number wins.

    Args:
        byzantine: f, the most clients of a round that may be false.
        keep: updates that are averaged, at most n − f, as more would take in a false one.

    Raises:
        ConfigError: f or `keep` do not fit the cohort.
    """

    def __init__(self, byzantine: int, keep: int) -> None:
        super().__init__()
        self.byzantine = byzantine
        self.keep = keep

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:
        if self.byzantine < 0:
            raise ConfigError(
                f"federation.aggregation.byzantine is {self.byzantine}, but must be >= 0"
            )
        if self.keep < 1:
            raise ConfigError(f"federation.aggregation.keep is {self.keep}, but must be >= 1")
        super().check(schema, cohort)

    def remedy(self, clients: int) -> str:
        f = (clients - 3) // 2
        if f < 0:
            return super().remedy(clients)
        keep = f" and its keep to at most {clients - min(f, self.byzantine)}"
        return f"set its byzantine to at most {f}{'' if self.keep == 1 else keep}"

    def combine(self, updates: Tensor) -> Tensor:
        order = torch.argsort(krum_scores(updates, self.byzantine), stable=True)
        return updates[order[: self.keep].sort().values].mean(dim=0)

    def problem(self, clients: int) -> str | None:
        name, f = type(self).__name__, self.byzantine
        if clients < 2 * f + 3:
            return f"{name} with byzantine={f} needs 2·{f} + 3 = {2 * f + 3} updates, not {clients}"
        if self.keep > clients - f:
            return (
                f"{name} with byzantine={f} and keep={self.keep} would average false ones of "
                f"{clients} updates"
            )
        return None


class Krum(MultiKrum):
    """The one update with the lowest score; see `MultiKrum`.

    Args:
        byzantine: f, the most clients of a round that may be false; needs 2f + 3 clients.
    """

    def __init__(self, byzantine: int) -> None:
        super().__init__(byzantine, keep=1)


def krum_scores(updates: Tensor, byzantine: int) -> Tensor:
    """Return the Krum score of each row of (n, values), shape (n,)."""
    # Differences, not the expanded square: that would lose small distances between large updates.
    distances = torch.stack([(updates - update).square().sum(dim=1) for update in updates])
    distances.fill_diagonal_(float("inf"))
    nearest = len(updates) - byzantine - 2
    return distances.sort(dim=1).values[:, :nearest].sum(dim=1)
