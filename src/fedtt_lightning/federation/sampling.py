"""Which clients take part in a round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.seeds import generator_for


class ClientSampler(ABC):
    """Chooses each round's cohort as a pure function of (experiment, round)."""

    @abstractmethod
    def cohort(self, experiment: int, round: int, sizes: np.ndarray) -> tuple[int, ...]:
        """Return the clients of a round, perhaps none, in the order in which they train.

        Args:
            sizes: examples of each client, int64 (clients,).
        """

    def check(self, sizes: np.ndarray, rounds: int | None) -> None:  # noqa: B027
        """Raise ConfigError if the sampler cannot serve these clients for so many rounds.

        Args:
            sizes: examples of each client, int64 (clients,).
            rounds: rounds of the run, None if it is not limited.
        """

    def candidates(self, sizes: np.ndarray) -> Sequence[int]:
        """Return the clients that may ever be chosen."""
        return range(len(sizes))

    def smallest_cohort(self, sizes: np.ndarray) -> int | None:
        """Return the fewest clients a round can have, None if that is not known."""
        return None

    def largest_cohort(self, sizes: np.ndarray) -> int:
        """Return the most clients a round can have."""
        return len(sizes)


class UniformSampler(ClientSampler):
    """Draws the cohort uniformly without replacement.

    Args:
        clients_per_round: size of the cohort; all clients if not given.

    Examples:
        >>> sampler, sizes = UniformSampler(clients_per_round=3), np.full(10, 50)
        >>> [sampler.cohort(experiment=0, round=t, sizes=sizes) for t in range(2)]
        [(0, 8, 9), (1, 2, 4)]
    """

    def __init__(self, clients_per_round: int | None = None) -> None:
        self.clients_per_round = clients_per_round

    def check(self, sizes: np.ndarray, rounds: int | None) -> None:
        if self.clients_per_round is not None:
            _check_clients_per_round(self.clients_per_round, len(sizes))

    def cohort(self, experiment: int, round: int, sizes: np.ndarray) -> tuple[int, ...]:
        if self.clients_per_round is None:
            return tuple(range(len(sizes)))
        rng = generator_for(experiment, "cohort", round)
        return tuple(sorted(rng.choice(len(sizes), self.clients_per_round, replace=False).tolist()))

    def smallest_cohort(self, sizes: np.ndarray) -> int | None:
        return self.largest_cohort(sizes)

    def largest_cohort(self, sizes: np.ndarray) -> int:
        return len(sizes) if self.clients_per_round is None else self.clients_per_round


class FixedSampler(ClientSampler):
    """Takes the same clients in every round.

    Args:
        clients: numbers of the clients, from 0, in the order in which they train.
    """

    def __init__(self, clients: Sequence[int]) -> None:
        self.clients = tuple(clients)

    def check(self, sizes: np.ndarray, rounds: int | None) -> None:
        num_clients = len(sizes)
        wrong = [client for client in self.clients if not 0 <= client < num_clients]
        if wrong or not self.clients or len(set(self.clients)) < len(self.clients):
            raise ConfigError(
                f"federation.sampler.clients is {list(self.clients)}, but must name one or more "
                f"different clients between 0 and {num_clients - 1}"
            )

    def cohort(self, experiment: int, round: int, sizes: np.ndarray) -> tuple[int, ...]:
        return self.clients

    def candidates(self, sizes: np.ndarray) -> Sequence[int]:
        return self.clients

    def smallest_cohort(self, sizes: np.ndarray) -> int | None:
        return len(self.clients)

    def largest_cohort(self, sizes: np.ndarray) -> int:
        return len(self.clients)


class PoissonSampler(ClientSampler):
    """Takes each client with the same probability, independently of the others.

    The sampling that privacy amplification assumes (Abadi et al., arXiv 1607.00133; for clients:
    McMahan et al., arXiv 1710.06963). Cohorts differ in size and may be empty: such a round is
    skipped, or fails, as `federation.below_min_clients` says; under CentralDP it adds noise alone.

    Args:
        rate: probability of a client to take part in a round, in (0, 1].
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def check(self, sizes: np.ndarray, rounds: int | None) -> None:
        if not 0 < self.rate <= 1:
            raise ConfigError(f"federation.sampler.rate is {self.rate}, but must lie in (0, 1]")

    def cohort(self, experiment: int, round: int, sizes: np.ndarray) -> tuple[int, ...]:
        draws = generator_for(experiment, "cohort", round).random(len(sizes))
        return tuple(np.flatnonzero(draws < self.rate).tolist())

    def smallest_cohort(self, sizes: np.ndarray) -> int | None:
        return len(sizes) if self.rate == 1 else 0


class SizeWeightedSampler(ClientSampler):
    """Draws clients one after another, each with a chance in proportion to its examples.

    Without replacement: a draw is among the clients that are not yet in the round, with
    probability size / (sum of their sizes). This is successive sampling, done at once with the
    random keys of Efraimidis and Spirakis (Information Processing Letters 97, 2006): the
    `clients_per_round` smallest of the keys Exp(1) / size. For one client a round, the chance to
    take part is exactly in proportion to size; for more it is less than that for large clients,
    since none comes twice (their number times the share of examples may exceed 1).

    Use it with `federation.weighting: equal`. Large clients already come more often, and
    `weighting: examples` would count their size a second time.

    Args:
        clients_per_round: size of the cohort.
    """

    def __init__(self, clients_per_round: int) -> None:
        self.clients_per_round = clients_per_round

    def check(self, sizes: np.ndarray, rounds: int | None) -> None:
        _check_clients_per_round(self.clients_per_round, len(sizes))

    def cohort(self, experiment: int, round: int, sizes: np.ndarray) -> tuple[int, ...]:
        keys = generator_for(experiment, "cohort", round).standard_exponential(len(sizes)) / sizes
        chosen = np.argpartition(keys, self.clients_per_round - 1)[: self.clients_per_round]
        return tuple(np.sort(chosen).tolist())

    def smallest_cohort(self, sizes: np.ndarray) -> int | None:
        return self.clients_per_round

    def largest_cohort(self, sizes: np.ndarray) -> int:
        return self.clients_per_round


def _check_clients_per_round(wanted: int, num_clients: int) -> None:
    if not 1 <= wanted <= num_clients:
        raise ConfigError(
            f"federation.sampler.clients_per_round is {wanted}, but must lie between 1 and the "
            f"{num_clients} clients of the data"
        )
