"""Which clients take part in a round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.seeds import generator_for


class ClientSampler(ABC):
    """Chooses each round's cohort as a pure function of (experiment, round)."""

    @abstractmethod
    def cohort(self, experiment: int, round: int, num_clients: int) -> tuple[int, ...]:
        """Return the clients of a round, in the order in which they train."""

    def check(self, num_clients: int) -> None:  # noqa: B027 - most samplers have nothing to check
        """Raise ConfigError if the sampler cannot serve this many clients."""


class UniformSampler(ClientSampler):
    """Draws the cohort uniformly without replacement.

    Args:
        clients_per_round: size of the cohort; all clients if not given.
    """

    def __init__(self, clients_per_round: int | None = None) -> None:
        self.clients_per_round = clients_per_round

    def check(self, num_clients: int) -> None:
        wanted = self.clients_per_round
        if wanted is not None and not 1 <= wanted <= num_clients:
            raise ConfigError(
                f"federation.sampler.clients_per_round is {wanted}, but must lie between 1 and "
                f"the {num_clients} clients of the data"
            )

    def cohort(self, experiment: int, round: int, num_clients: int) -> tuple[int, ...]:
        if self.clients_per_round is None:
            return tuple(range(num_clients))
        rng = generator_for(experiment, "cohort", round)
        return tuple(
            sorted(rng.choice(num_clients, self.clients_per_round, replace=False).tolist())
        )


class FixedSampler(ClientSampler):
    """Takes the same clients in every round.

    Args:
        clients: numbers of the clients, from 0, in the order in which they train.
    """

    def __init__(self, clients: Sequence[int]) -> None:
        self.clients = tuple(clients)

    def check(self, num_clients: int) -> None:
        wrong = [client for client in self.clients if not 0 <= client < num_clients]
        if wrong or not self.clients or len(set(self.clients)) < len(self.clients):
            raise ConfigError(
                f"federation.sampler.clients is {list(self.clients)}, but must name one or more "
                f"different clients between 0 and {num_clients - 1}"
            )

    def cohort(self, experiment: int, round: int, num_clients: int) -> tuple[int, ...]:
        return self.clients
