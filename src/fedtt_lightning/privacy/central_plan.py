"""What central differential privacy costs the clients of a planned run, found before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import ClientSampler, PoissonSampler, RoundPlanner
from fedtt_lightning.privacy.accounting import Accountant, noise_for, steps_within


@dataclass(frozen=True)
class CentralBudget:
    """What a user asks of central DP; `epsilon` or `noise_multiplier`, or both."""

    epsilon: float | None
    delta: float
    noise_multiplier: float | None
    accountant: Accountant

    def noise(self, rate: float, steps: int) -> float:
        """Return the noise multiplier for `steps` releases that sample clients with `rate`."""
        if self.noise_multiplier is not None:
            return float(self.noise_multiplier)
        assert self.epsilon is not None
        return noise_for(self.epsilon, self.delta, rate, max(steps, 1), self.accountant)

    def affordable(self, rate: float, steps: int) -> int:
        """Return how many of `steps` releases fit into the budget, if noise is given and limited.

        Raises:
            ConfigError: not a single one.
        """
        if self.epsilon is None or self.noise_multiplier is None or steps == 0:
            return steps
        within = steps_within(
            self.epsilon, self.delta, self.noise_multiplier, rate, self.accountant, steps
        )
        if within == 0:
            raise ConfigError(
                f"CentralDP's noise_multiplier {self.noise_multiplier} spends more than epsilon "
                f"{self.epsilon} in the first round: raise it, or leave it out to have it "
                "calibrated"
            )
        return within


@dataclass(frozen=True)
class CentralPlan:
    """How a run is noised and accounted for.

    Attributes:
        noise: the noise multiplier.
        rate: the chance of a client to be in a round, 1 where everybody may know who is.
        expected_clients: what the noised sum is divided by.
        fewest_clients: clients of the smallest round that takes place.
        retired: the round (0-based) from which a client whose budget ends is left out.
    """

    noise: float
    rate: float
    expected_clients: float
    fewest_clients: int
    retired: dict[int, int]


def plan_central(
    budget: CentralBudget,
    planner: RoundPlanner,
    rounds: int | None,
    fewest: int,
    advance: Callable[[], object] = lambda: None,
) -> CentralPlan:
    """Calibrate the noise, and find whose budget ends before the run does.

    Under Poisson sampling each client pays for every round, at the sampling rate (amplification by
    sampling: nobody may know the cohorts). Under any other, cohorts depend on no update and may be
    known, and a client pays in full for each round in which it takes part.

    Args:
        rounds: of the run, None for no limit, with which nothing can be calibrated or limited.
        fewest: clients that a round which takes place has at least.
        advance: called after each round.

    Raises:
        ConfigError: no noise reaches the target, or not even one round fits into the budget.
    """
    clients, sampler = len(planner.sizes), planner.sampler
    if isinstance(sampler, PoissonSampler):
        steps = rounds or 0
        within = budget.affordable(sampler.rate, steps)
        retired = dict.fromkeys(range(clients), within) if within < steps else {}
        noise = budget.noise(sampler.rate, steps)
        return CentralPlan(noise, sampler.rate, sampler.rate * clients, fewest, retired)
    expected = float(sampler.largest_cohort(planner.sizes))
    if rounds is None:
        return CentralPlan(budget.noise(1.0, 0), 1.0, expected, fewest, {})
    most = budget.affordable(1.0, rounds)
    counts, smallest, retired = _participations(planner, rounds, most, advance)
    noise = budget.noise(1.0, int(counts.max()))
    return CentralPlan(noise, 1.0, expected, min(fewest, smallest), retired)


def _participations(
    planner: RoundPlanner, rounds: int, most: int, advance: Callable[[], object]
) -> tuple[np.ndarray, int, dict[int, int]]:
    """Count the rounds in which each client trains, `most` of them at most.

    Returns:
        The counts, int64 (clients,); the clients of the smallest round; and from which round (from
        0) those are left out that would train more often.
    """
    counts = np.zeros(len(planner.sizes), dtype=np.int64)
    smallest, retired = inf, dict[int, int]()
    for round in range(rounds):
        visits = [visit.client for visit in planner.plan(round).visits]
        for client in visits:
            if counts[client] == most:
                retired.setdefault(client, round)
        left = [client for client in visits if client not in retired]
        if len(left) >= planner.min_clients:
            counts[left] += 1
            smallest = min(smallest, len(left))
        advance()
    return counts, int(min(smallest, len(counts))), retired


class SecretSampler(ClientSampler):
    """Draws another sampler's cohorts by a key that nobody knows, in place of the seed."""

    def __init__(self, sampler: ClientSampler, key: int) -> None:
        self._sampler, self._key = sampler, key

    def cohort(self, experiment: int, round: int, sizes: np.ndarray) -> tuple[int, ...]:
        return self._sampler.cohort(self._key, round, sizes)

    def check(self, sizes: np.ndarray, rounds: int | None) -> None:
        self._sampler.check(sizes, rounds)

    def candidates(self, sizes: np.ndarray) -> Sequence[int]:
        return self._sampler.candidates(sizes)

    def smallest_cohort(self, sizes: np.ndarray) -> int | None:
        return self._sampler.smallest_cohort(sizes)

    def largest_cohort(self, sizes: np.ndarray) -> int:
        return self._sampler.largest_cohort(sizes)
