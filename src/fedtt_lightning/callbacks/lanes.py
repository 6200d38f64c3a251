"""Silos of one cluster: each trains its share of a round, and one sum brings all updates to all."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, distributed

from fedtt_lightning.callbacks.exchange import Exchange, VisitResult
from fedtt_lightning.callbacks.lightning_private import (
    count_elsewhere,
    defer_sigterm,
    hear_sigterm,
    reduced_at_epoch_end,
    stop_deferring,
)
from fedtt_lightning.callbacks.parts import Silo, silo_of, with_hook
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import AdapterSchema, AdapterState, RoundPlan, Visit
from fedtt_lightning.federation.lanes import lanes_of, visit_costs

if TYPE_CHECKING:
    from fedtt_lightning.callbacks.federated_rounds import FederatedRounds

_SCALARS = 3  # loss, whether there is one, seconds
_MISSING = re.compile(r"Ranks? ([\d, ]+) failed to pass monitoredBarrier")


class Lanes(Exchange):
    """Shares a round's visits out on the strategy's silos, by what they are known to cost.

    A silo's visits follow each other in its lane. After the last of them all processes add up one
    float64 buffer, visits × (values that travel, private ones, a few numbers), in which each has
    written what it trained and zeros elsewhere: so every process gets every update to the last bit,
    and the result depends on no lane. It lies in the CPU's memory, in every process.

    Raises:
        FederationError: a process was lost, or silos waited for it longer than the strategy's
            `timeout`; or some have logged what all would have to reduce.
        SIGTERMException: before the round that follows one in which a process was sent a SIGTERM.
    """

    def __init__(self, federation: FederatedRounds, trainer: Trainer) -> None:
        self._federation = federation
        self._silo: Silo = silo_of(trainer)
        self._pace: dict[int, float] = {}  # seconds a batch of clients, as all processes know them
        self._shared: tuple[RoundPlan, RoundPlan] | None = None
        self._steps = 0  # optimizer steps before the round
        self._terminated = False
        self._min_epochs = trainer.fit_loop.min_epochs
        defer_sigterm(trainer)

    def close(self, trainer: Trainer) -> None:
        stop_deferring(trainer)
        trainer.fit_loop.min_epochs = self._min_epochs

    def share(self, trainer: Trainer, plan: RoundPlan) -> tuple[RoundPlan, RoundPlan]:
        if self._federation._loop is None:
            raise ConfigError(
                "trainer.estimated_stepping_batches was asked for before training, but differs "
                "by silo: give schedulers of configure_optimizers the steps of a visit"
            )
        if self._terminated:  # not at once, or the round would be lost whose validation it stops
            hear_sigterm(trainer, True)
            raise SIGTERMException
        # Who is told to stop inside a round trains on, since others wait for it at the end.
        trainer.fit_loop.min_epochs = max(self._min_epochs or 0, plan.round + 1)
        self._steps = trainer.global_step  # asked for the last time before the round's first step
        if self._shared is None or self._shared[0] != plan:
            lanes = lanes_of(visit_costs(plan.visits, self._pace), self._silo.count)
            own: list[Visit] = []
            first = 0
            for visit, lane in zip(plan.visits, lanes, strict=True):
                if lane == self._silo.index:
                    own.append(replace(visit, first_batch=first))
                    first += visit.num_batches
            self._shared = plan, replace(plan, visits=tuple(own))
        return self._shared

    def end_epoch(self, trainer: Trainer) -> None:
        """Stop everywhere if anybody is to."""
        decision = trainer.strategy.reduce_boolean_decision(trainer.should_stop, all=False)
        trainer.should_stop = decision

    def gather(
        self, trainer: Trainer, module: LightningModule, results: list[VisitResult]
    ) -> list[VisitResult]:
        assert self._shared is not None
        plan, own = self._shared
        loop = self._federation.loop
        schemas = [loop.travelling, loop.schema.select(loop.private)]
        if with_hook(trainer, "client_extra"):
            schemas.append(loop.travelling)
        width = _SCALARS + sum(schema.numel for schema in schemas)
        sizes = (len(plan.visits) * width, 2, trainer.world_size)
        buffer = torch.zeros(sum(sizes), dtype=torch.float64)
        rows, common, reduced = buffer.split(sizes)
        rows = rows.view(-1, width)
        places = {visit.client: place for place, visit in enumerate(plan.visits)}
        for result in results:
            self._write(rows[places[result.visit.client]], result)
        steps = trainer.global_step - self._steps
        common[0] = hear_sigterm(trainer, False)
        common[1] = steps if self._silo.rank == 0 else 0
        reduced[trainer.global_rank] = len(logged := reduced_at_epoch_end(trainer))
        self._add_up(buffer, plan.round)
        _check_reduced(reduced, logged, plan.round)
        self._terminated = bool(common[0])
        count_elsewhere(trainer, int(common[1]) - steps, plan, own)
        numbers = rows[:, :_SCALARS].tolist()
        values = rows.to(next(iter(loop.tensors.values())).device)
        gathered = []
        for visit, row, (loss, has_loss, seconds) in zip(plan.visits, values, numbers, strict=True):
            if seconds:
                self._pace[visit.client] = seconds / visit.num_batches
            parts = row[_SCALARS:].split([schema.numel for schema in schemas])
            gathered.append(
                VisitResult(
                    visit,
                    _read(schemas[0], parts[0]),
                    loss if has_loss else None,
                    _read(schemas[1], parts[1], own=True) if loop.private else None,
                    seconds,
                    _read(schemas[2], parts[2]).tensors() if len(schemas) > 2 else {},
                )
            )
        return gathered

    def _write(self, row: Tensor, result: VisitResult) -> None:
        """Write this process's part of a result; its silo's first process has most of it."""
        if result.loss is not None:
            row[0] = result.loss / self._silo.size
        if self._silo.rank:
            return
        row[1], row[2] = result.loss is not None, result.seconds
        states = [state for state in (result.update, result.private) if state is not None]
        parts = [buffer for state in states for buffer in state.buffers.values()]
        if result.extra:
            extra = AdapterState.capture(result.extra, self._federation.loop.travelling)
            parts += extra.buffers.values()
        row[_SCALARS:] = torch.cat([part.double().cpu() for part in parts])

    def _add_up(self, buffer: Tensor, round: int) -> None:
        group, timeout = self._silo.exchange, self._silo.timeout
        try:
            distributed.monitored_barrier(group, timeout)  # tells who is missing
            distributed.all_reduce(buffer, group=group)
        except RuntimeError as error:
            raise FederationError(self._lost(str(error), round)) from None

    def _lost(self, error: str, round: int) -> str:
        advice = "go on from the last checkpoint with --ckpt_path last"
        found = _MISSING.search(error)
        ranks = [int(rank) for rank in found[1].split(",")] if found else self._unreachable()
        if not ranks:
            return (
                f"another process was lost in round {round + 1}, or is later than the strategy's "
                f"timeout: see what it printed (the first process may say which it is); {advice}"
            )
        silos = ", ".join(str(rank // self._silo.size + 1) for rank in ranks)
        return (
            f"a process of silo {silos} of {self._silo.count} (rank {', '.join(map(str, ranks))}) "
            f"was lost in round {round + 1}, or is later than the strategy's timeout: see what it "
            f"printed; {advice}"
        )

    def _unreachable(self) -> list[int]:
        """Return the ranks to which the first process has no connection any more.

        `monitored_barrier` names those that are lost while it waits, not those that were before.
        """
        if distributed.get_rank() != 0:
            return []
        ranks = []
        for rank in range(1, distributed.get_world_size()):
            try:
                distributed.irecv(torch.empty(1), src=rank, group=self._silo.exchange)
            except RuntimeError:
                ranks.append(rank)
        return ranks


def choose_exchange(federation: FederatedRounds, trainer: Trainer) -> None:
    """Spread rounds over the strategy's silos, if it has several."""
    if silo_of(trainer).count > 1:
        federation.exchange = Lanes(federation, trainer)
    elif isinstance(federation.exchange, Lanes):
        federation.exchange = None  # of an earlier fit


def is_lost_process(error: RuntimeError) -> bool:
    """Tell whether an error is that of a torch.distributed connection that broke or timed out."""
    return isinstance(error, distributed.DistError) or "/gloo/" in str(error)


def _check_reduced(counts: Tensor, logged: list[str], round: int) -> None:
    """Raise FederationError if only some processes would reduce, and so wait for the others."""
    if bool((counts != counts[0]).any()):
        raise FederationError(
            f"training_step logs {logged[0] if logged else 'a metric'} to be reduced over all "
            f"processes at the epoch's end, but in round {round + 1} not all have a client: leave "
            "sync_dist out, give a torchmetrics Metric sync_on_compute=False, or use fewer silos"
        )


def _read(schema: AdapterSchema, values: Tensor, own: bool = False) -> AdapterState:
    """Return tensors from their values, one after another; in their `own` dtypes or float64."""
    numels = [numel for _, numel in schema.layout.values()]
    parts = zip(schema.layout.items(), values.split(numels), strict=True)
    return AdapterState(
        schema, {name: part.to(dtype) if own else part for (name, (dtype, _)), part in parts}
    )
