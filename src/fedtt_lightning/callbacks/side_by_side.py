"""Visits in groups: clients train side by side, in one forward pass of the model they share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from fedtt_lightning.callbacks.first_step import FirstStep
from fedtt_lightning.callbacks.local_dp_loss import check_mean_loss
from fedtt_lightning.callbacks.optimizer_reset import check_schedulers
from fedtt_lightning.callbacks.parts import call_hook, client_data
from fedtt_lightning.callbacks.round_end import end_visit
from fedtt_lightning.cohort.modules import ClientModules, Clients
from fedtt_lightning.cohort.optimizer import ClientOptimizers, Schedule, steps_together
from fedtt_lightning.cohort.random import ClientRandom
from fedtt_lightning.cohort.size_search import SizeSearch
from fedtt_lightning.cohort.stacks import ClientStacks
from fedtt_lightning.data.round_loader import batch_examples, in_step
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import RoundPlanner, Visit, seed_all
from fedtt_lightning.federation.seeds import drawn_since

if TYPE_CHECKING:
    from fedtt_lightning.callbacks.federated_rounds import FederatedRounds


class SideBySide:
    """Begins and ends the batches of groups of visits.

    The model holds the global parameters all the time: what clients train lies in stacks, which its
    modules use during a step, and one optimizer steps each client's part with a state of its own.

    Raises:
        ConfigError: the module has several optimizers, or one that does not step once a batch.
    """

    def __init__(
        self, federation: FederatedRounds, trainer: Trainer, module: LightningModule
    ) -> None:
        self._federation = federation
        self._trainer, self._module = trainer, module
        self._configs = trainer.lr_scheduler_configs
        check_schedulers(self._configs)
        optimizer = _only_optimizer(trainer)
        schedules = [Schedule(config.scheduler, config.interval) for config in self._configs]
        self._together = steps_together(optimizer, schedules)
        self._optimizer = ClientOptimizers(
            optimizer,
            schedules,
            self._clip,
            self._side_by_side,
            lambda client: self._random.client(client),
        )
        trainer.optimizers = [self._optimizer]
        # Lightning would clip what the model holds, which gets no gradients.
        self._largest, trainer.gradient_clip_val = trainer.gradient_clip_val, None
        trainer.strategy.lr_scheduler_configs = []  # which would step them once for all clients
        self._modules = ClientModules(module, federation.loop.tensors)
        self._random = ClientRandom(module.device)
        self._first: FirstStep | None = FirstStep(trainer, module)
        self._stacks = ClientStacks(federation.loop.tensors, 0)
        self._visits: list[Visit] = []  # of the group, the longest first
        self._active: list[Visit] = []  # those that have a batch in this step
        self._sizes: list[int] = []
        self._names: tuple[str, ...] = ()
        self._saved: dict[str, Any] | None = None
        self._search: SizeSearch | None = None
        if federation.cohort_batch == "auto":
            planner = federation.loop.planner
            largest = planner.sampler.largest_cohort(planner.sizes)
            self._search = SizeSearch(largest, module.device)

    def begin_batch(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Let the clients of a group begin afresh with its first batch, and prepare a step."""
        loop = self._federation.loop
        step = loop.step
        if step == 0:
            loop.open_visit()
            self._open(trainer, module, resumed=False)
        options = client_data(trainer).loader
        self._activate(in_step(self._visits, step))
        self._sizes = [batch_examples(visit, step, options) for visit in self._active]
        self._random.begin([visit.seed_at(step, "step 0") for visit in self._active], self._sizes)
        ends_epoch = [visit.ends_epoch(step) for visit in self._active]
        self._optimizer.prepare([False] if self._together else ends_epoch)
        if self._first is not None and step == 0 and len(self._active) > 1:
            self._first.check(loop, self._active, batch, self._clients, self._modules)
            self._first = None

    def end_batch(self, trainer: Trainer, module: LightningModule, loss: Any) -> None:
        """Count the batch, and take the clients' updates, in the plan's order, after the last."""
        federation, loop = self._federation, self._federation.loop
        if isinstance(loss, Tensor):
            federation.loss.add_batch(loss, sum(self._sizes), len(self._visits))
        loop.advance()
        if loop.position < self._visits[0].first_batch + self._visits[0].num_batches:
            return
        assert loop.local is not None
        for visit in loop.local.group(loop.position - 1):
            self._stacks.write(self._visits.index(visit), loop.tensors)
            end_visit(federation, trainer, module, visit)

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """See that the loss is a mean over examples, or go on inside a group."""
        loop, state = self._federation.loop, self._saved
        self._saved = None
        if loop.round < 0:
            check_mean_loss(trainer, module, "federation.cohort_batch > 1")
        if loop.inside_visit:
            assert state is not None
            self._open(trainer, module, resumed=True)
            self._stacks.load_state_dict(state["stacks"])
            self._optimizer.load_clients_state(state["optimizers"])

    def open(self, state: dict[str, Any] | None) -> RoundPlanner:
        """Return what plans the rounds, after `start` as `state_dict` was, if it is given."""
        self._saved = state
        if self._search is not None and state is not None and state["search"] is not None:
            self._search.load_state_dict(state["search"])
        return self._planned()

    def end_round(self) -> RoundPlanner:
        """Return what plans the coming round, with groups of another size while that is sought."""
        search = self._search
        if search is not None and not search.found:
            search.end_round()
            if search.found:
                times = [f"{n}: {1e3 * s:.3g} ms" for n, s in search.seconds.items()]
                rank_zero_info(
                    f"federation.cohort_batch auto: {search.size} clients side by side (an example "
                    f"takes {', '.join(times)})"
                )
        return self._planned()

    def state_dict(self) -> dict[str, Any]:
        """Return the size of groups, and what the clients of one hold inside their visits."""
        inside = self._federation.loop.inside_visit
        return {
            "search": None if self._search is None else self._search.state_dict(),
            "stacks": self._stacks.state_dict() if inside else None,
            "optimizers": self._optimizer.clients_state() if inside else None,
        }

    def close(self, trainer: Trainer) -> None:
        """Give the trainer its optimizer and schedulers back."""
        trainer.optimizers = [self._optimizer.optimizer]
        trainer.gradient_clip_val = self._largest
        trainer.strategy.lr_scheduler_configs = self._configs

    def _planned(self) -> RoundPlanner:
        loop = self._federation.loop
        if self._search is not None:
            loop.planner = replace(loop.planner, group_sizes=(self._search.size,))
        return loop.planner

    def _open(self, trainer: Trainer, module: LightningModule, resumed: bool) -> None:
        loop = self._federation.loop
        assert loop.local is not None
        group = loop.local.group(loop.position)
        self._visits = in_step(group, 0)
        self._active = in_step(group, max(loop.step - 1, 0))  # where it was left
        self._names = tuple(name for name in loop.tensors if name in loop.trained)
        self._stacks = ClientStacks(loop.tensors, len(group))
        own = [self._clients.stacks] if self._together else self._stacks.own
        self._optimizer.begin([{loop.tensors[n]: p for n, p in o.items()} for o in own])
        for visit in group:
            call_hook(trainer, "on_client_start", module, visit, resumed)

    def _activate(self, visits: list[Visit]) -> None:
        """Go on with the visits that have another batch, the first ones of those before."""
        before = self._clients.stacks
        self._active = visits
        if self._together and (after := self._clients.stacks) is not before:
            self._optimizer.keep({before[name]: after[name] for name in before})

    @property
    def _clients(self) -> Clients:
        leaves = self._stacks.leaves(self._names, len(self._active))
        return Clients(leaves, self._sizes, self._random)

    def _side_by_side(self, closure: Callable[[], Any]) -> Any:
        """Run forward and backward pass with the parameters of all clients."""
        seed = self._active[0].seed_at(self._federation.loop.step, "step 0")
        seed_all(seed)
        step: AbstractContextManager[None] = nullcontext()
        if self._search is not None:
            step = self._search.step(len(self._active), sum(self._sizes))
        with (
            step,
            self._modules.attached(self._clients),
            self._random if self._first is not None or self._random.used else nullcontext(),
        ):
            result = closure()
        if drawn_since(seed):
            raise FederationError(
                "training_step draws random numbers other than by dropout, which clients side by "
                "side would share: set federation.cohort_batch to 1"
            )
        self._stacks.scale(self._sizes)
        if not self._together:
            self._stacks.hand_out()
        return result

    def _clip(self, optimizer: Optimizer) -> None:
        algorithm = self._trainer.gradient_clip_algorithm
        if not self._together:
            self._module.clip_gradients(optimizer, self._largest, algorithm)
        elif self._largest:
            self._stacks.clip(self._largest, by_value=algorithm == "value")


def _only_optimizer(trainer: Trainer) -> Optimizer:
    optimizers = trainer.optimizers
    if len(optimizers) != 1:
        raise ConfigError(
            f"the module's configure_optimizers gives {len(optimizers)} optimizers, but clients "
            "side by side need exactly one: let one step all parameters, or set "
            "federation.cohort_batch to 1"
        )
    if isinstance(optimizers[0], LBFGS):
        raise ConfigError(
            "LBFGS computes a batch several times, which clients side by side cannot: use another "
            "optimizer, or set federation.cohort_batch to 1"
        )
    return optimizers[0]
