"""What local differential privacy costs each client of a planned run, found before it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import FederatedLoop, RoundPlanner
from fedtt_lightning.privacy.accounting import Accountant, noise_for, steps_within
from fedtt_lightning.privacy.ledger import PrivacyLedger
from fedtt_lightning.privacy.participation import (
    Participation,
    last_affordable,
    participations,
)


@dataclass(frozen=True)
class LocalBudget:
    """What a user asks of DP-SGD; `epsilon` or `noise_multiplier`, or both."""

    epsilon: float | None
    delta: float
    noise_multiplier: float | None
    accountant: Accountant

    def check_delta(self, planner: RoundPlanner) -> None:
        """Raise ConfigError if δ allows to publish a whole example of some client."""
        clients = list(planner.sampler.candidates(planner.sizes))
        sizes = planner.sizes[clients]
        size = int(sizes.max())
        if self.delta >= 1 / size:
            client = clients[int(np.argmax(sizes))]
            raise ConfigError(
                f"LocalDP's delta is {self.delta}, but client {client} has {size} examples, and "
                f"delta must be below 1/{size}: an algorithm that publishes one example of that "
                "client as it is would fulfil it. Lower delta"
            )

    def describe(self, clip: float, rounds: int) -> str:
        """Say what is asked, and of a resumed run too."""
        noise = f"noise {self.noise_multiplier}"
        if self.noise_multiplier is None:
            noise = f"noise calibrated for {rounds} rounds"
        return (
            f"local DP with epsilon {self.epsilon}, delta {self.delta}, clip {clip}, {noise}, "
            f"accountant {self.accountant}"
        )

    def noise(self, rate: float, steps: int) -> float:
        """Return the noise multiplier for a client that takes `steps` steps in all."""
        if self.noise_multiplier is not None:
            return float(self.noise_multiplier)
        assert self.epsilon is not None
        return noise_for(self.epsilon, self.delta, rate, steps, self.accountant)

    def affordable(self, rate: float, steps: int) -> int:
        """Return how many of `steps` steps fit into the budget, if noise is given and limited."""
        if self.epsilon is None or self.noise_multiplier is None:
            return steps
        return steps_within(
            self.epsilon, self.delta, self.noise_multiplier, rate, self.accountant, steps
        )


@dataclass(frozen=True)
class LocalPlan:
    """What was found before a run starts, for each client that takes part.

    Attributes:
        noise: noise multipliers.
        rates: sampling rates.
        retired: the round from which a client is left out, if its budget ends before the run.
    """

    noise: dict[int, float]
    rates: dict[int, float]
    retired: dict[int, int]

    def check_spent(self, ledger: PrivacyLedger, loop: FederatedLoop, or_less: bool) -> None:
        """Raise ConfigError unless clients have spent what the plan says, up to where `loop` is.

        Noise that was calibrated for a plan bounds ε only if no more than that is carried out.

        Args:
            or_less: they may have spent less, where a plan's visits may come to nothing elsewhere.
        """
        taken = participations(loop.planner, loop.round + (not loop.is_open))
        steps = {client: sum(n for _, n in visits) for client, visits in taken.items()}
        for visit in loop.plan.visits if loop.is_open and loop.plan else ():
            done = min(max(loop.position - visit.first_batch, 0), visit.num_batches)
            steps[visit.client] = steps.get(visit.client, 0) + done
        for client, noise in self.noise.items():
            n = steps.get(client, 0)
            expected = ((noise, self.rates[client], n),) if n else ()
            spent = ledger.history(client)
            fits = not spent or (spent[0][:2] == (noise, self.rates[client]) and spent[0][2] <= n)
            if spent != expected and not (or_less and len(spent) <= 1 and fits):
                raise ConfigError(
                    f"the checkpoint's account of client {client} has (noise, rate, steps) "
                    f"{list(spent)}, but this run's plan {list(expected)}: resume with the same "
                    "LocalDP, trainer.max_epochs, federation keys and data.batch_size (times the "
                    "processes that share a batch)"
                )


def plan_local(
    budget: LocalBudget,
    planner: RoundPlanner,
    visits: dict[int, Participation],
    advance: Callable[[], object] = lambda: None,
) -> LocalPlan:
    """Calibrate every client's noise and find those whose budget ends before the run.

    Args:
        visits: each client's planned visits.
        advance: called after each client.

    Raises:
        ConfigError: no noise reaches the target, or no client can afford its first visit.
    """
    noise, rates = {}, {}
    for client, planned in visits.items():
        rates[client] = 1 / planner.batches_per_epoch(int(planner.sizes[client]))
        noise[client] = budget.noise(rates[client], sum(steps for _, steps in planned))
        advance()
    retired = last_affordable(visits, lambda client, n: budget.affordable(rates[client], n))
    if retired and all(retired.get(c) == planned[0][0] for c, planned in visits.items()):
        raise ConfigError(
            f"LocalDP's noise_multiplier {budget.noise_multiplier} spends more than epsilon "
            f"{budget.epsilon} in the first visit of every client: raise it, or leave it out to "
            "have it calibrated"
        )
    if retired and planner.max_batches is not None:
        raise ConfigError(
            f"trainer.limit_train_batches is {planner.max_batches}, with which the last clients of "
            f"a round train longer once {len(retired)} others have spent LocalDP's epsilon: set it "
            "to 1.0, or leave noise_multiplier out to have it calibrated"
        )
    return LocalPlan(noise, rates, retired)
