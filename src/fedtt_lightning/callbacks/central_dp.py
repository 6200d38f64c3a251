"""Central differential privacy: a trusted server releases models that tell of no client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from fedtt_lightning.callbacks.build import fewest_updates
from fedtt_lightning.callbacks.central_dp_checks import central_dp_problems
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.local_dp import LocalDP
from fedtt_lightning.callbacks.progress import progress
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import (
    AdapterState,
    PoissonSampler,
    PrivateMean,
    RoundPlan,
    RoundPlanner,
    Visit,
)
from fedtt_lightning.privacy.accounting import Accountant
from fedtt_lightning.privacy.central_plan import (
    CentralBudget,
    CentralPlan,
    SecretSampler,
    plan_central,
)
from fedtt_lightning.privacy.ledger import PrivacyLedger
from fedtt_lightning.privacy.secret import KNOWN_SEED, fingerprint, noise_key


class CentralDP(Callback):
    """Calibrates the noise of `PrivateMean` and accounts for it: (ε, δ) for each client.

    McMahan et al., arXiv 1710.06963. Neighbours are two runs one of which lacks all that one
    client sends, which counts as zero (also its bit, if the clip adapts). Who sees all released
    adapters can then not tell one from the other. The server is trusted, and so is whoever reads
    its checkpoints: to go on from, they hold the last cohort and losses, and inside a round
    updates. Publish weights.

    - `PoissonSampler`: each round costs every client one step at the sampling rate, since nobody
      knows who is in it. Give `secret_file`, which keys the cohorts too: those of a known seed are
      known. An empty round adds noise alone.
    - Any other sampler: each round costs its clients one step without amplification, the others
      nothing. Cohorts may be known; dropouts and cohorts drawn by size use sizes as public.

    Sums are divided by the expected cohort, whoever answers: rate × clients, or the sampler's
    cohort. Without `noise_multiplier` the noise is calibrated for `trainer.max_epochs` rounds, so
    that the client with most rounds spends `epsilon`. With both, the run (Poisson) or each client
    ends at the last round that `epsilon` affords (`RoundPlan.exhausted`). An update with NaN or Inf
    counts as zero, so that no round is skipped because of a client's data.

    Logged at each round's end: `dp/epsilon_max`, `dp/epsilon_mean` (over clients that have spent
    anything), `dp/clients_exhausted` (left out in this round), as `dp/central_…` beside `LocalDP`;
    and `PrivateMean`'s own. Other metrics, such as `fed/clients`, losses, EarlySigns' and
    ClientEvaluation's, tensors that stay with clients, and choices made by them are not covered.

    Args:
        epsilon: budget of each client over the whole run.
        delta: the δ at which it holds; must be below 1 / clients.
        noise_multiplier: noise on the sum in units of the clip; calibrated if not given; 0 for
            comparisons without privacy.
        accountant: `rdp`, `prv` (tighter, slower) or `gdp` (may underestimate) of opacus.
        secret_file: file of 16 bytes or more that keys the noise in place of the seed; without it
            whoever knows the seed can subtract the noise. Of two runs with the same file and other
            data or settings, resumed ones too, publish one: their difference has no noise.

    Raises:
        ConfigError: from `setup`, with one line for everything that would break the promise.
        FederationError: a round would cost a client more than `epsilon`.
    """

    def __init__(
        self,
        epsilon: float | None = None,
        delta: float = 1e-5,
        noise_multiplier: float | None = None,
        accountant: Accountant = "rdp",
        secret_file: str | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self.noise_multiplier = noise_multiplier
        self.accountant: Accountant = accountant
        self.secret_file = secret_file
        self._ledger: PrivacyLedger | None = None
        self._plan: CentralPlan | None = None
        self._poisson = False
        self._metric = "dp/"

    @property
    def ledger(self) -> PrivacyLedger:
        """What each client has spent; there from `setup` on."""
        assert self._ledger is not None, "CentralDP has no ledger before fit starts"
        return self._ledger

    @property
    def noise(self) -> float:
        """The noise multiplier of the run; there from `setup` on."""
        assert self._plan is not None, "CentralDP has no noise before fit starts"
        return self._plan.noise

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            find_federation(trainer)

    def federation_problems(self, trainer: Trainer, module: LightningModule) -> Iterator[str]:
        """Give a line for everything that central privacy cannot work with."""
        return central_dp_problems(self, trainer)

    def on_plan(
        self, trainer: Trainer, module: LightningModule, planner: RoundPlanner
    ) -> RoundPlanner:
        """Calibrate the noise for the planned rounds and see whose budget ends before them."""
        clients = len(planner.sizes)
        if self.delta >= 1 / clients:
            raise ConfigError(
                f"CentralDP's delta is {self.delta}, but must be below 1/{clients} for {clients} "
                "clients: an algorithm that publishes one client's update as it is would fulfil "
                "it. Lower delta"
            )
        rule = find_federation(trainer).aggregation
        assert isinstance(rule, PrivateMean)
        key = noise_key(planner.experiment, self.secret_file)
        self._poisson = isinstance(planner.sampler, PoissonSampler)
        rounds = trainer.max_epochs
        rounds = rounds if rounds is not None and rounds >= 0 else None
        budget = CentralBudget(self.epsilon, self.delta, self.noise_multiplier, self.accountant)
        with progress(trainer, "Planning rounds", rounds or 0) as advance:
            plan = plan_central(budget, planner, rounds, fewest_updates(planner), advance)
        rule.calibrate(
            plan.noise,
            plan.expected_clients,
            key,
            fewest_clients=plan.fewest_clients,
            most_clients=planner.sampler.largest_cohort(planner.sizes),
            hidden_cohort=self._poisson,
        )
        self._plan, self._ledger = plan, PrivacyLedger(self.delta, self.accountant)
        beside_local = any(isinstance(c, LocalDP) for c in trainer.callbacks)  # type: ignore[attr-defined]
        self._metric = "dp/central_" if beside_local else "dp/"
        self._tell(planner)
        retired = dict(planner.retired)  # by LocalDP, perhaps earlier
        for client, round in plan.retired.items():
            retired[client] = min(round, retired.get(client, round))
        planner = replace(
            planner,
            retired=retired,
            privacy=self._describe(planner, rule, rounds),
        )
        if self._poisson and self.secret_file is not None:
            planner = replace(planner, sampler=SecretSampler(planner.sampler, key))
        return planner

    def _tell(self, planner: RoundPlanner) -> None:
        plan, sampler, sizes = self._plan, planner.sampler, planner.sizes
        assert plan is not None
        if plan.noise == 0:
            rank_zero_warn("CentralDP's noise_multiplier is 0: clipped, but not private")
        elif self.secret_file is None:
            cohorts = "; epsilon counts on hidden cohorts, which the seed gives away too"
            rank_zero_info(f"CentralDP: {KNOWN_SEED}{cohorts if self._poisson else ''}")
        if not self._poisson and sampler.smallest_cohort(sizes) != sampler.largest_cohort(sizes):
            rank_zero_info(
                f"CentralDP: cohorts differ in size; sums are divided by the largest, "
                f"{plan.expected_clients:g} clients"
            )
        if plan.retired:
            who = "the run's budget" if self._poisson else "the first clients' budget"
            rank_zero_info(
                f"CentralDP: {who} ends before the run; {len(plan.retired)} of {len(sizes)} "
                f"clients are left out, from round {min(plan.retired.values()) + 1} on"
            )

    def _describe(self, planner: RoundPlanner, rule: PrivateMean, rounds: int | None) -> str:
        plan = self._plan
        assert plan is not None
        calibrated = f" calibrated for {rounds} rounds" if self.noise_multiplier is None else ""
        shares = f", noise shared out on {plan.fewest_clients}" if rule.codec else ""
        others = "" if planner.privacy == "none" else f"{planner.privacy}; "
        return (
            f"{others}central DP with epsilon {self.epsilon}, delta {self.delta}, noise "
            f"{plan.noise:.6g}{calibrated}, clip {rule.clip}, sampling rate {plan.rate:g}, "
            f"{plan.expected_clients:g} expected clients{shares}, accountant {self.accountant}, "
            f"{fingerprint(self.secret_file)}"
        )

    def on_client_update(
        self, trainer: Trainer, pl_module: LightningModule, visit: Visit, update: AdapterState
    ) -> AdapterState | None:
        """Let an update that holds NaN or Inf count as zero."""
        if update.is_finite():
            return None
        rank_zero_warn(
            f"client {visit.client} counts as zero in round {visit.round + 1}: its update holds "
            "NaN or Inf"
        )
        zeros = {dtype: torch.zeros_like(buffer) for dtype, buffer in update.buffers.items()}
        return AdapterState(update.schema, zeros)

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        """Charge everybody who might be in the round, or those who are, before it can cost them.

        Raises:
            FederationError: that is more than a client has left.
        """
        planner, central = find_federation(trainer).loop.planner, self._plan
        assert central is not None
        if self._poisson:
            retired = central.retired
            everybody = range(len(planner.sizes))
            charged = [c for c in everybody if retired.get(c, plan.round + 1) > plan.round]
        else:
            charged = [visit.client for visit in plan.visits]
        for client in charged:
            self.ledger.add(client, central.noise, central.rate)
        if self.epsilon is not None and (spent := self.ledger.largest()) > self.epsilon:
            raise FederationError(
                f"round {plan.round + 1} would cost a client epsilon {spent:.4g} of "
                f"{self.epsilon}: other rounds came before it than this run has planned; resume "
                "with the federation.sampler, failures and min_clients of the run that began"
            )

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        federation = find_federation(trainer)
        values = {
            "epsilon_max": self.ledger.largest(),
            "epsilon_mean": self.ledger.mean(),
            "clients_exhausted": float(len(plan.exhausted)),
        }
        for name, value in values.items():
            federation.log_round(pl_module, self._metric + name, value)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._ledger is None else {"ledger": self._ledger.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict and self._ledger is not None:
            self._ledger.load_state_dict(state_dict["ledger"])
