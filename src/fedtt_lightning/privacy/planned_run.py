"""The privacy of a run before it is started: the noise of an ε, or the ε of a noise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import PoissonSampler, RoundPlanner, UniformSampler
from fedtt_lightning.privacy.accounting import Accountant, epsilon_of
from fedtt_lightning.privacy.central_plan import CentralBudget, plan_central
from fedtt_lightning.privacy.local_plan import LocalBudget, plan_local
from fedtt_lightning.privacy.participation import Participation, participations

Asked = Literal["epsilon", "noise"]


@dataclass(frozen=True)
class PlannedRun:
    """What a run will look like, as far as its privacy depends on it.

    Attributes:
        cohort: clients of a round; with `poisson` sampling on average.
        examples: of each client; None if not known, as central DP does not ask for it.
    """

    clients: int
    rounds: int
    cohort: int
    sampling: Literal["poisson", "uniform"]
    examples: int | None
    batch_size: int
    local_epochs: int
    local_steps: int | None
    seed: int
    delta: float
    accountant: Accountant

    @property
    def rate(self) -> float:
        """The chance of a client to be in a round."""
        return self.cohort / self.clients

    def planner(self) -> RoundPlanner:
        """Return the planner of the run's rounds, which draws the cohorts that the run will."""
        poisson = self.sampling == "poisson"
        return RoundPlanner(
            experiment=self.seed,
            sizes=np.full(self.clients, self.examples or 1),
            batches_per_epoch=lambda size: -(-size // self.batch_size),
            sampler=PoissonSampler(self.rate) if poisson else UniformSampler(self.cohort),
            local_epochs=self.local_epochs,
            local_steps=self.local_steps,
        )


def plan_privacy(
    run: PlannedRun,
    asked: Asked,
    values: Sequence[float],
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Plan local and central DP as `LocalDP` and `CentralDP` will, for each value that is asked.

    Args:
        asked: whether `values` are ε, to find the noise, or noise multipliers, to find their ε.
        advance: called after each round and client that is planned.

    Returns:
        Plain values: the run; `local` (None without `examples`) and `central`, what is the same for
        all values; `plans`, one for each value. `std` is the noise's standard deviation on the mean
        gradient of a batch, or on the mean update of a round, in units of the clip. An ε of None is
        beyond what the accountant can tell.

    Raises:
        ConfigError: no noise reaches the target, or nobody takes part.
    """
    planner = run.planner()
    # Under Poisson sampling central DP costs the same whoever is drawn.
    drawn = run.rounds if run.examples is not None or run.sampling == "uniform" else 0
    visits = participations(planner, drawn, advance)
    if drawn and not visits:
        raise ConfigError(
            f"nobody takes part in {run.rounds} rounds of seed {run.seed}: raise --rounds or "
            "--cohort"
        )
    local = None if run.examples is None else _local_steps(planner, run.examples, visits)
    central = _central_steps(run, visits)
    plans = []
    for value in values:
        epsilon, noise = (value, None) if asked == "epsilon" else (None, value)
        wanted = (epsilon, run.delta, noise, run.accountant)
        row: dict[str, Any] = {asked: value, "local": None, "central": None}
        try:
            model = "local"
            if local is not None:
                row[model] = _local(LocalBudget(*wanted), planner, visits, local, advance)
            model = "central"
            row[model] = _central(CentralBudget(*wanted), planner, central, advance)
        except ConfigError as error:
            raise ConfigError(f"--{asked} for {model} DP: {error}") from None
        plans.append(row)
    return {"run": asdict(run), "asked": asked, "local": local, "central": central, "plans": plans}


def _local_steps(
    planner: RoundPlanner, examples: int, visits: Mapping[int, Participation]
) -> dict[str, Any]:
    """Return what local DP costs by, whatever the noise: sampling rate and clients' steps."""
    batches = planner.batches_per_epoch(examples)
    return {
        "rate": 1 / batches,
        "expected_batch": examples / batches,
        "clients": len(visits),
        "visits": _spread([len(planned) for planned in visits.values()]),
        "steps": _spread([_steps(planned) for planned in visits.values()]),
    }


def _central_steps(run: PlannedRun, visits: Mapping[int, Participation]) -> dict[str, Any]:
    """Return what central DP costs by: the rounds that a client pays for, and at which rate.

    All of them under Poisson sampling, else those of the client that comes most often.
    """
    if run.sampling == "poisson":
        rate, paid = run.rate, run.rounds
    else:
        rate, paid = 1.0, max(map(len, visits.values()))
    return {"rate": rate, "rounds": run.rounds, "rounds_paid": paid, "expected_clients": run.cohort}


def _local(
    budget: LocalBudget,
    planner: RoundPlanner,
    visits: dict[int, Participation],
    fixed: dict[str, Any],
    advance: Callable[[], object],
) -> dict[str, Any]:
    noise = plan_local(budget, planner, visits, advance).noise
    spent = [
        epsilon_of(
            ((noise[client], fixed["rate"], _steps(planned)),), budget.delta, budget.accountant
        )
        for client, planned in visits.items()
    ]
    return {
        "epsilon": _spread(spent),
        "noise": _spread(noise.values()),
        "std": _spread([value / fixed["expected_batch"] for value in noise.values()]),
    }


def _central(
    budget: CentralBudget,
    planner: RoundPlanner,
    fixed: dict[str, Any],
    advance: Callable[[], object],
) -> dict[str, Any]:
    plan = plan_central(budget, planner, fixed["rounds"], 1, advance)
    spent = epsilon_of(
        ((plan.noise, plan.rate, fixed["rounds_paid"]),), budget.delta, budget.accountant
    )
    return {
        "epsilon": _finite(spent),
        "noise": plan.noise,
        "std": plan.noise / plan.expected_clients,
    }


def _steps(planned: Participation) -> int:
    return sum(steps for _, steps in planned)


def _spread(values: Collection[float]) -> dict[str, Any]:
    return {"least": _finite(min(values)), "most": _finite(max(values))}


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
