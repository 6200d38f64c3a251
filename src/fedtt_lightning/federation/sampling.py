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
    """

    def __init__(self, clients_per_round: int | None = None) -> None:
        self.clients_per_round = clients_per_round

    def check(self, sizes: np.ndarray, rounds: int | None) -> None:
        wanted, num_clients = self.clients_per_round, len(sizes)
        if wanted is not None and not 1 <= wanted <= num_clients:
            raise ConfigError(
                f"federation.sampler.clients_per_round is {wanted}, but must lie between 1 and "
                f"the {num_clients} clients of the data"
            )

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

    def smallest_cohort(self, sizes: np.ndarray) -> int | None:
        return len(self.clients)

    def largest_cohort(self, sizes: np.ndarray) -> int:
        return len(self.clients)
