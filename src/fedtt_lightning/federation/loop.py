"""The state machine of a federated run: rounds of visits, each round closed by one aggregation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.aggregation import AggregationRule, WeightedMean
from fedtt_lightning.federation.freezing import FreezingSchedule, TrainAll
from fedtt_lightning.federation.loop_state import (
    check_frozen,
    check_same_run,
    check_visits,
    no_usable_update,
    to_device,
    too_few_updates,
    visit_rows,
)
from fedtt_lightning.federation.plan import RoundPlan, RoundPlanner, Visit
from fedtt_lightning.federation.server import FedAvg, ServerOptimizer

Weighting = Literal["examples", "equal"]
"""How much a client counts in a mean: by its number of examples, or as much as any other."""


class FederatedLoop:
    """Drives rounds over named tensors that somebody else trains in place.

    The caller asks `open_round`, then for each visit `open_visit` (writes the global adapter into
    the tensors), trains, calls `advance` after each batch, takes `close_visit` and hands the
    update to `accept`; `close_round` aggregates. `state_dict` is all it takes to go on from there.

    Args:
        planner: draws the rounds' visits.
        tensors: the trainable tensors by name; the live parameters of the model.
        schedule: which of them train in which round.
        aggregation: how a round's updates become one.
        server: how that moves the global adapter.
        weighting: whether a client weighs its number of examples, or each the same.
        below_min_clients: `skip` a round with too few finite updates, or `fail`.
        private: names that train but never travel; the global adapter keeps their first values.
        ranks: each client's TT or LoRA rank, int64 (clients,); the adapter's own if not given.

    Attributes:
        trained: the names that train in the open or last closed round.
        start: what the open visit began from.
        private_state: the private tensors at the end of the visit that was closed last.
        counted: the update that was accepted last, None if the last one was left out.
        local: of `plan`, the open or last closed round, what trains here: all, unless told.
    """

    def __init__(
        self,
        planner: RoundPlanner,
        tensors: Mapping[str, Tensor],
        schedule: FreezingSchedule | None = None,
        server: ServerOptimizer | None = None,
        aggregation: AggregationRule | None = None,
        weighting: Weighting = "examples",
        below_min_clients: Literal["skip", "fail"] = "skip",
        private: Collection[str] = (),
        ranks: np.ndarray | None = None,
    ) -> None:
        self.planner = planner
        self.tensors = dict(tensors)
        self.schedule = schedule or TrainAll()
        self.server = server or FedAvg()
        self.aggregation = aggregation or WeightedMean()
        self.weighting = weighting
        self.below_min_clients = below_min_clients
        self.private = frozenset(private)
        self.ranks = ranks
        self.schema = AdapterSchema.of(self.tensors)
        self.adapter = AdapterState.capture(self.tensors)
        self.start = self.adapter
        self.trained: frozenset[str] = frozenset(self.tensors)
        self.private_state: AdapterState | None = None
        self.counted: AdapterState | None = None
        self.plan: RoundPlan | None = None
        self.local: RoundPlan | None = None
        self.is_open = False
        self.position = 0
        self.rejected: list[int] = []
        self._parked: AdapterState | None = None
        self.aggregation.reset()

    @property
    def round(self) -> int:
        """The round that is open, or was last closed; -1 before the first."""
        return -1 if self.plan is None else self.plan.round

    @property
    def visit(self) -> Visit:
        """The visit of the next batch to train."""
        assert self.local is not None
        return self.local.locate(self.position)[1]

    @property
    def step(self) -> int:
        """Batches of the current visit that are done."""
        assert self.local is not None
        return self.local.locate(self.position)[2]

    @property
    def inside_visit(self) -> bool:
        """Whether the tensors hold a client's weights: a visit was begun and is not over."""
        if self.local is None or not self.is_open:
            return False
        return self.position < self.local.num_batches and self.step > 0

    @property
    def skipped(self) -> bool:
        """Whether the last round is closed and has changed nothing, having too few updates."""
        plan = None if self.is_open else self.plan
        count = 0 if plan is None else len(plan.visits) - len(self.rejected)
        return plan is not None and (count < plan.needed or bool(self.aggregation.problem(count)))

    @property
    def travelling(self) -> AdapterSchema:
        """The schema of what clients send in the open or last closed round, at full rank."""
        return self.schema.select(self.trained - self.private)

    def message_schema(self, schema: AdapterSchema, client: int) -> AdapterSchema:
        """Return the shapes in which tensors travel to and from a client."""
        if self.ranks is None:
            return schema
        return self.aggregation.message_schema(schema, int(self.ranks[client]))

    def open_round(self, round: int) -> RoundPlan:
        """Begin a round with an empty aggregate; one that has too few clients is over at once.

        Raises:
            FederationError: the round has too few clients, and that is not to be skipped.
        """
        self.plan = self.local = self.planner.plan(round)
        self.is_open, self.position = not self.plan.skipped, 0
        self.rejected = []
        self.trained = self.schedule.trained(self.schema.names, round, self.planner.experiment)
        self.aggregation.open(round)
        if self.plan.skipped:
            self._too_few(self.plan, len(self.plan.unused))
        elif not self.travelling.specs:
            raise FederationError(
                f"nothing that trains in round {round + 1} travels: all of it is private"
            )
        return self.plan

    def open_visit(self) -> Visit:
        """Write what the visit starts from into the tensors: the adapter, at the client's rank."""
        visit = self.visit
        self.start = self.adapter_for(visit.client)
        self.start.copy_into(self.tensors)
        return visit

    def adapter_for(self, client: int) -> AdapterState:
        """Return the global adapter as a client fetches it, at its rank."""
        if self.ranks is None:
            return self.adapter
        return self.aggregation.shrink(self.adapter, int(self.ranks[client]))

    def begin_from(self, private: Mapping[str, Tensor]) -> None:
        """Let the visit that was just opened begin from the client's own private tensors."""
        with torch.no_grad():
            for name, value in private.items():
                self.tensors[name].copy_(value)
        self.start = AdapterState.capture(self.tensors)

    def advance(self) -> None:
        """Count one trained batch."""
        self.position += 1

    def park(self) -> None:
        """Put the global adapter into the tensors and the client's weights, if any, aside.

        For a run that stops inside a round: `state_dict` still tells how to go on with them.
        """
        if not self.is_open:
            return
        if self.inside_visit and self._parked is None:
            self._parked = AdapterState.capture(self.tensors)
        self.adapter.copy_into(self.tensors)

    def close_visit(self) -> AdapterState:
        """Return the visit's update (new minus start, float64) and put the global adapter back.

        Raises FederationError if a tensor that was frozen in this round has moved.
        """
        check_frozen(self.start, self.tensors, self.trained, self.round)
        if self.private:
            self.private_state = AdapterState.capture(
                self.tensors, self.schema.select(self.private)
            )
        schema = self.travelling
        update = AdapterState.capture(self.tensors, schema).minus(self.start.select(schema))
        self.adapter.copy_into(self.tensors)
        return update

    def accept(self, visit: Visit, update: AdapterState) -> bool:
        """Count an update, unless a value of it is NaN or infinite; tell whether it counted."""
        self.counted = update if update.is_finite() else None
        if self.counted is None:
            self.rejected.append(visit.client)
            return False
        self.aggregation.add(visit.client, self.start, update, self.weight(visit))
        return True

    def weight(self, visit: Visit) -> float:
        """Return what a client's update weighs in the aggregate."""
        return float(visit.num_examples) if self.weighting == "examples" else 1.0

    def close_round(self) -> AdapterState | None:
        """Aggregate, write the new global adapter into the tensors and return it.

        Without enough finite updates the round is skipped, and None returned.

        Raises:
            FederationError: no update was finite, or too few were and that is not to be skipped.
        """
        assert self.plan is not None
        self.is_open, count = False, self.aggregation.count
        if count == 0 and self.plan.visits:
            raise no_usable_update(self.round, self.rejected)
        if self.skipped:
            self._too_few(self.plan, count)
            self.aggregation.reset()
            return None
        return self._step(self.aggregation.result(self.adapter))

    def close_empty(self) -> AdapterState | None:
        """Let the rule move the adapter in a round without anybody, as central privacy demands."""
        assert self.plan is not None
        if self.plan.unused or self.planner.all_retired(self.round):
            return None
        update = self.aggregation.empty(self.travelling)
        return None if update is None else self._step(update)

    def _step(self, update: AdapterState) -> AdapterState:
        new = self.server.step(self.adapter.select(update.schema), update)
        self.schedule.observe(self.round, update)
        new.copy_into(self.adapter.tensors())
        self.adapter.copy_into(self.tensors)
        self.aggregation.reset()
        return self.adapter

    def _too_few(self, plan: RoundPlan, count: int) -> None:
        if self.below_min_clients == "fail":
            problem = self.aggregation.problem(count) if count >= plan.needed else None
            raise too_few_updates(plan, count, len(self.rejected), problem)

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and tensors; a client's weights only inside a visit."""
        inside = self.inside_visit
        local = (self._parked or AdapterState.capture(self.tensors)).buffers if inside else None
        return {
            "experiment": self.planner.experiment,
            "schema": self.schema.rows(),
            "visits": visit_rows(self.plan),
            "round": self.round,
            "is_open": self.is_open,
            "position": self.position,
            "rejected": list(self.rejected),
            "adapter": {dtype: buffer.clone() for dtype, buffer in self.adapter.buffers.items()},
            "aggregation": self.aggregation.state_dict(),
            "server": self.server.state_dict(),
            "schedule": self.schedule.state_dict(),
            "local": local,
            "start": self.start.buffers if inside and self.start is not self.adapter else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the tensors get the client's weights if it was in a visit.

        Raises:
            ConfigError: the state belongs to another model, method or experiment.
        """
        check_same_run(state, self.schema, self.planner.experiment)
        device = next(iter(self.tensors.values())).device
        state = to_device(state, device)
        self.schedule.load_state_dict(state["schedule"])
        round = state["round"]
        self.plan = self.local = None if round < 0 else self.planner.plan(round)
        check_visits(state, self.plan)
        self.is_open, self.position = state["is_open"], state["position"]
        if self.is_open:
            self.trained = self.schedule.trained(self.schema.names, round, self.planner.experiment)
        self.rejected = list(state["rejected"])
        self.adapter = self.start = AdapterState(self.schema, state["adapter"])
        self.aggregation.load_state_dict(state["aggregation"])
        self.server.load_state_dict(state["server"])
        if state["start"] is not None:
            self.start = AdapterState(self.schema, state["start"])
        if state["local"] is not None:
            AdapterState(self.schema, state["local"]).copy_into(self.tensors)
        else:
            self.adapter.copy_into(self.tensors)
