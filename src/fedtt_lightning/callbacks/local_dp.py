"""Local differential privacy: each client trains with DP-SGD, so that nobody need be trusted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.nn import Parameter
from torch.optim import Optimizer

from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.local_dp_checks import local_dp_problems, only_optimizer
from fedtt_lightning.callbacks.local_dp_loss import check_examples_apart, check_mean_loss
from fedtt_lightning.callbacks.parts import Silo, call_hook, client_data, silo_of
from fedtt_lightning.callbacks.progress import progress
from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import (
    FederatedLoop,
    PoissonBatches,
    RoundPlan,
    RoundPlanner,
    Visit,
)
from fedtt_lightning.privacy.accounting import Accountant
from fedtt_lightning.privacy.ledger import PrivacyLedger
from fedtt_lightning.privacy.local_plan import LocalBudget, LocalPlan, plan_local
from fedtt_lightning.privacy.participation import Participation, participations
from fedtt_lightning.privacy.secret import KNOWN_SEED, fingerprint, noise_key

if TYPE_CHECKING:
    from fedtt_lightning.privacy.optimizer import PrivateOptimizer
    from fedtt_lightning.privacy.per_example import PerExampleGradients


class LocalDP(Callback):
    """Trains each client with DP-SGD: what it uploads is (ε, δ)-private for each of its examples.

    Abadi et al., arXiv 1607.00133, at each client by itself. In each step a client's examples are
    drawn by Poisson sampling, each example's gradient over all tensors that train is clipped to an
    L2 norm of `clip`, and Gaussian noise of standard deviation `noise × clip` is added to their
    sum, which is then divided by the expected batch size. `data.batch_size` is that expected size.
    The module's loss must be a mean over the examples of a batch, each of which counts by itself.

    With `trainer.strategy` silo_ddp, the processes of a silo share each batch, of `data.batch_size`
    times their number: each clips its examples' gradients, and noise goes to the sum of all. Every
    process of the run keeps all accounts.

    Without `noise_multiplier` each client's noise is calibrated so that all of its visits in the
    run's `trainer.max_epochs` rounds cost `epsilon`. With both, a client whose next visit would go
    past `epsilon` is left out from then on (`RoundPlan.exhausted`). Each client has one account as
    long as the federation, which a resumed run goes on with; another `fit` is another federation.
    Client sizes, and so sampling rates and numbers of steps, are public. A client whose upload is
    late, or of a round that is skipped, pays for it too.

    Logged at each round's end: `dp/epsilon_max` and `dp/epsilon_mean` (of the clients that have
    trained so far) and `dp/clients_exhausted` (left out in this round). What else is logged, such
    as losses, is not private.

    Other callbacks may define `on_private_gradient(trainer, module)`, called when the noise is in
    the gradients, before the optimizer uses them.

    Args:
        epsilon: budget of each client over the whole run.
        delta: the δ at which it holds; must be below 1/n of each client.
        clip: largest L2 norm of an example's gradient.
        noise_multiplier: noise in units of `clip`; calibrated if not given.
        accountant: `rdp`, `prv` (tighter, slower) or `gdp` (may underestimate) of opacus.
        secret_file: file of 16 bytes or more that keys noise and sampling in place of the seed;
            without it whoever knows the seed can subtract the noise.

    Raises:
        ConfigError: from `setup`, with one line for everything that would break the promise.
        FederationError: a step that is not private.
    """

    def __init__(
        self,
        epsilon: float | None = None,
        delta: float = 1e-5,
        clip: float = 1.0,
        noise_multiplier: float | None = None,
        accountant: Accountant = "rdp",
        secret_file: str | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self.clip = clip
        self.noise_multiplier = noise_multiplier
        self.accountant: Accountant = accountant
        self.secret_file = secret_file
        self._ledger: PrivacyLedger | None = None
        self._plan = LocalPlan({}, {}, {})
        self._visits: dict[int, Participation] = {}
        self._optimizer: PrivateOptimizer | None = None
        self._gradients: PerExampleGradients | None = None
        self._trained: dict[str, Parameter] = {}
        self._silo = Silo(0, 1, 0, 1)
        self._first = 0  # step of the visit that this process began with

    @property
    def ledger(self) -> PrivacyLedger:
        """What each client has spent; there from `setup` on."""
        assert self._ledger is not None, "LocalDP has no ledger before fit starts"
        return self._ledger

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            find_federation(trainer)

    def federation_problems(self, trainer: Trainer, module: LightningModule) -> Iterator[str]:
        """Give a line for everything that private training cannot work with."""
        return local_dp_problems(self, trainer, module)

    def on_plan(
        self, trainer: Trainer, module: LightningModule, planner: RoundPlanner
    ) -> RoundPlanner:
        """Calibrate the noise for the planned rounds and see whose budget ends before them."""
        budget = LocalBudget(self.epsilon, self.delta, self.noise_multiplier, self.accountant)
        budget.check_delta(planner)
        rounds = trainer.max_epochs or 0
        with progress(trainer, "Planning rounds", rounds) as advance:
            self._visits = visits = participations(planner, rounds, advance)
        with progress(trainer, "Calibrating noise", len(visits)) as advance:
            self._plan = plan_local(budget, planner, visits, advance)
        self._ledger = PrivacyLedger(self.delta, self.accountant)
        key = noise_key(planner.experiment, self.secret_file)
        client_data(trainer).poisson = PoissonBatches(key)
        if self.noise_multiplier == 0:
            rank_zero_warn("LocalDP's noise_multiplier is 0: clipped, but not private")
        elif self.secret_file is None:
            rank_zero_info(f"LocalDP: {KNOWN_SEED}")
        if retired := self._plan.retired:
            rank_zero_info(
                f"LocalDP: the budget of {len(retired)} of {len(visits)} clients ends before the "
                f"run; the first is left out from round {min(retired.values()) + 1} on"
            )
        others = "" if planner.privacy == "none" else f"{planner.privacy}; "
        asked = f"{budget.describe(self.clip, rounds)}, {fingerprint(self.secret_file)}"
        retired = {**planner.retired, **retired}
        return replace(planner, retired=retired, privacy=others + asked)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wrap the optimizer for the whole fit, in place of the one that schedulers hold."""
        from fedtt_lightning.privacy.optimizer import PrivateOptimizer  # opacus takes seconds

        # Of a frozen backbone's first adapter, whose hook fires as it should.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        self._silo = silo_of(trainer)
        self._optimizer = PrivateOptimizer(
            only_optimizer(trainer, pl_module), self._silo.size, self._silo.group
        )
        self._optimizer.attach_step_hook(lambda _: self._stepped(trainer, pl_module))
        trainer.optimizers = [self._optimizer]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that the clients have spent what they would have in this run.

        Raises:
            ConfigError: they have not, or the loss is no mean over examples.
        """
        federation = find_federation(trainer)
        loop = federation.loop
        self._plan.check_spent(self.ledger, loop, or_less=federation.exchange is not None)
        if loop.round < 0:
            check_mean_loss(trainer, pl_module)
            check_examples_apart(trainer, pl_module)

    def on_client_start(
        self, trainer: Trainer, pl_module: LightningModule, visit: Visit, resumed: bool
    ) -> None:
        """Attach the hooks that give each example's gradient, and set the client's noise.

        Raises:
            FederationError: the noise was not calibrated for this visit.
        """
        from fedtt_lightning.privacy.per_example import PerExampleGradients

        assert self._optimizer is not None
        loop = find_federation(trainer).loop
        if (visit.round, visit.num_batches) not in self._visits.get(visit.client, ()):
            raise FederationError(
                f"client {visit.client} begins {visit.num_batches} batches in round "
                f"{visit.round + 1}, for which its noise was not calibrated: something has changed "
                "trainer.max_epochs or the federation's settings during fit; remove it"
            )
        self._detach()
        self._trained = {n: p for n, p in loop.tensors.items() if n in loop.trained}  # type: ignore[misc]
        self._first = loop.step
        self._optimizer.begin_visit(
            list(self._trained.values()),
            self._plan.noise[visit.client],
            self.clip,
            self._batches(trainer).expected_size(visit),
            self._kept(loop, visit.client),
        )
        self._gradients = PerExampleGradients(pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """See that the step is private, and key its noise.

        Raises:
            FederationError: it is not.
        """
        loop = find_federation(trainer).loop
        if optimizer is not self._optimizer or self._gradients is None:
            raise FederationError(
                f"{type(optimizer).__name__} is about to step without privacy: something has "
                "replaced the optimizer that LocalDP wrapped; remove it from trainer.callbacks"
            )
        visit, step, batches = loop.visit, loop.step, self._batches(trainer)
        self._check_steps(visit, step)
        if step == 0:
            start = loop.start.tensors()
            self._optimizer.expect([start[name] for name in self._trained])
        drawn = batches.size(visit, step, self._silo.rank, self._silo.size)
        self._gradients.check(self._trained, max(drawn, 1))
        seed = batches.noise_seed(visit, step)
        self._optimizer.arm(seed, max(drawn, 1), empty=drawn == 0)

    def _stepped(self, trainer: Trainer, module: LightningModule) -> None:
        federation = find_federation(trainer)
        if federation.exchange is None:
            self._charge(federation.loop.visit.client, 1)
        call_hook(trainer, "on_private_gradient", module)

    def _charge(self, client: int, steps: int) -> None:
        self.ledger.add(client, self._plan.noise[client], self._plan.rates[client], steps)

    def on_client_trained(self, trainer: Trainer, pl_module: LightningModule, visit: Visit) -> None:
        """Let nothing leave the client that was not trained by private steps alone."""
        assert self._optimizer is not None
        self._check_steps(visit, visit.num_batches)
        self._optimizer.check_untouched()

    def _check_steps(self, visit: Visit, expected: int) -> None:
        assert self._optimizer is not None
        if (taken := self._first + self._optimizer.steps) != expected:
            raise FederationError(
                f"client {visit.client} took {taken} private steps instead of {expected} in round "
                f"{visit.round + 1}: its module's training_step or optimizer_step must step the "
                "optimizer once for each batch"
            )

    def on_client_end(self, trainer: Trainer, pl_module: LightningModule, visit: Visit) -> None:
        """Where visits train in several processes, charge the client in each of them."""
        self._detach()
        if find_federation(trainer).exchange is not None:
            self._charge(visit.client, visit.num_batches)

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        federation = find_federation(trainer)
        for client in (*plan.late, *plan.unused):  # who send as well, to nobody's use
            self._charge(client, federation.loop.planner.batches_of(client))
        federation.log_round(pl_module, "dp/epsilon_max", self.ledger.largest())
        federation.log_round(pl_module, "dp/epsilon_mean", self.ledger.mean())
        federation.log_round(pl_module, "dp/clients_exhausted", len(plan.exhausted))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._detach()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._detach()

    def state_dict(self) -> dict[str, Any]:
        return {} if self._ledger is None else {"ledger": self._ledger.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict and self._ledger is not None:
            self._ledger.load_state_dict(state_dict["ledger"])

    def _detach(self) -> None:
        if self._gradients is not None:
            self._gradients.detach()
            self._gradients = None

    def _batches(self, trainer: Trainer) -> PoissonBatches:
        batches = client_data(trainer).poisson
        assert batches is not None
        return batches

    def _kept(self, loop: FederatedLoop, client: int) -> dict[Parameter, tuple[int, ...]] | None:
        """Return the shapes that a client of smaller rank really has, of what trains."""
        if loop.ranks is None:
            return None
        schema = loop.message_schema(loop.schema.select(self._trained), client)
        return {self._trained[spec.name]: spec.shape for spec in schema.specs}
