"""Simulated clients that drop out, and stragglers that miss the round's deadline."""

from __future__ import annotations

from math import exp
from statistics import NormalDist
from typing import Literal

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.seeds import uniform_for

Outcome = Literal["done", "dropped", "late"]
_NORMAL = NormalDist()


class ClientFailures:
    """Decides which clients of a cohort fail, as a pure function of (experiment, round, client).

    A client that drops out has downloaded the adapter and never answers. A late one uploads after
    the deadline, and its update is discarded. Neither is trained, since nothing of it would be
    used; their bytes count. Time is simulated: a batch takes 1 on a median client, and `exp(z)` on
    others, where z is drawn once for each client from a normal distribution of mean 0: a log-normal
    pace, whose median is 1.

    Args:
        dropout_rate: chance of a client to drop out of a round, in [0, 1).
        deadline: time for a visit, in batches of a median client; none if not given.
        slowness: standard deviation of the logarithm of a client's pace, at most 10; 0 makes all
            clients equally fast.
    """

    def __init__(
        self, dropout_rate: float = 0.0, deadline: float | None = None, slowness: float = 0.5
    ) -> None:
        self.dropout_rate = dropout_rate
        self.deadline = deadline
        self.slowness = slowness

    def check(self) -> None:
        """Raise ConfigError if a setting is out of range."""
        if not 0 <= self.dropout_rate < 1:
            raise ConfigError(
                f"federation.failures.dropout_rate is {self.dropout_rate}, but must lie in [0, 1)"
            )
        if self.deadline is not None and not self.deadline > 0:
            raise ConfigError(f"federation.failures.deadline is {self.deadline}, but must be > 0")
        if not 0 <= self.slowness <= 10:
            raise ConfigError(
                f"federation.failures.slowness is {self.slowness}, but must lie in [0, 10]"
            )

    def outcome(self, experiment: int, round: int, client: int, num_batches: int) -> Outcome:
        """Tell how a client's visit of so many batches ends."""
        if uniform_for(experiment, "dropout", round, client) < self.dropout_rate:
            return "dropped"
        if self.deadline is None:
            return "done"
        return "late" if num_batches * self.pace(experiment, client) > self.deadline else "done"

    def pace(self, experiment: int, client: int) -> float:
        """Return the time a client takes for a batch; 1 is the median."""
        return exp(self.slowness * _NORMAL.inv_cdf(uniform_for(experiment, "pace", client)))
