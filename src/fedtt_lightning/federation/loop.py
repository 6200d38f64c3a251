"""The state machine of a federated run: rounds of visits, each round closed by one aggregation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.aggregation import FedAvg, StreamingMean
from fedtt_lightning.federation.freezing import FreezingSchedule, TrainAll
from fedtt_lightning.federation.plan import RoundPlan, RoundPlanner, Visit


class FederatedLoop:
    """Drives rounds over named tensors that somebody else trains in place.

    The caller asks `open_round`, then for each visit `open_visit` (writes the global adapter into
    the tensors), trains, calls `advance` after each batch, takes `close_visit` and hands the
    update to `accept`; `close_round` aggregates. Everything needed to go on from any batch is in
    `state_dict`.

    Args:
        planner: draws the rounds' visits.
        tensors: the trainable tensors by name; the live parameters of the model.
        schedule: which of them train in which round.
        server: how the mean update moves the global adapter.
    """

    def __init__(
        self,
        planner: RoundPlanner,
        tensors: Mapping[str, Tensor],
        schedule: FreezingSchedule | None = None,
        server: FedAvg | None = None,
    ) -> None:
        self.planner = planner
        self.tensors = dict(tensors)
        self.schedule = schedule or TrainAll()
        self.server = server or FedAvg()
        self.schema = AdapterSchema.of(self.tensors)
        self.adapter = AdapterState.capture(self.tensors)
        self.plan: RoundPlan | None = None
        self.is_open = False
        self.position = 0
        self.rejected: list[int] = []
        self._mean = StreamingMean()
        self._parked: AdapterState | None = None

    @property
    def round(self) -> int:
        """The round that is open, or was last closed; -1 before the first."""
        return -1 if self.plan is None else self.plan.round

    @property
    def visit(self) -> Visit:
        """The visit of the next batch to train."""
        assert self.plan is not None
        return self.plan.locate(self.position)[1]

    @property
    def step(self) -> int:
        """Batches of the current visit that are done."""
        assert self.plan is not None
        return self.plan.locate(self.position)[2]

    @property
    def inside_visit(self) -> bool:
        """Whether the tensors hold a client's weights: a visit was begun and is not over."""
        return self.is_open and self.position < self._round_batches and self.step > 0

    @property
    def _round_batches(self) -> int:
        return 0 if self.plan is None else self.plan.num_batches

    def trained_names(self, round: int) -> frozenset[str]:
        """Return the names that train, and travel, in a round."""
        return self.schedule.trained(self.schema.names, round)

    def trained_schema(self, round: int) -> AdapterSchema:
        """Return the schema of what clients send in a round."""
        return self.schema.select(self.trained_names(round))

    def open_round(self, round: int) -> RoundPlan:
        """Begin a round with an empty aggregate."""
        self.plan = self.planner.plan(round)
        self.is_open, self.position = True, 0
        self.rejected = []
        self._mean = StreamingMean()
        return self.plan

    def open_visit(self) -> Visit:
        """Write the global adapter into the tensors, where the next visit starts from."""
        self.adapter.copy_into(self.tensors)
        return self.visit

    def advance(self) -> None:
        """Count one trained batch."""
        self.position += 1

    def park(self) -> None:
        """Put the global adapter into the tensors and the client's weights, if any, aside.

        For a run that stops inside a round: the model must never be left with one client's
        weights, and `state_dict` must still tell how to go on with them.
        """
        if not self.is_open:
            return
        if self.inside_visit and self._parked is None:
            self._parked = AdapterState.capture(self.tensors)
        self.adapter.copy_into(self.tensors)

    def close_visit(self) -> AdapterState:
        """Return the visit's update (new minus old, float64) and put the global adapter back.

        Raises:
            FederationError: a tensor that was frozen in this round has moved.
        """
        schema = self.trained_schema(self.round)
        for name, old in self.adapter.tensors().items():
            if name not in schema.names and not torch.equal(old, self.tensors[name]):
                raise FederationError(
                    f"{name} is frozen in round {self.round + 1} but was changed during training: "
                    "something other than the optimizer writes to it"
                )
        update = AdapterState.capture(self.tensors, schema).minus(self.adapter.select(schema))
        self.adapter.copy_into(self.tensors)
        return update

    def accept(self, visit: Visit, update: AdapterState) -> bool:
        """Count an update, unless a value of it is NaN or infinite; tell whether it counted."""
        if not update.is_finite():
            self.rejected.append(visit.client)
            return False
        self._mean.add(update, float(visit.num_examples))
        return True

    def close_round(self) -> AdapterState:
        """Aggregate, write the new global adapter into the tensors and return it.

        Raises:
            FederationError: no update of the round was finite.
        """
        if self._mean.count == 0:
            raise FederationError(
                f"round {self.round + 1} has no usable update: those of clients "
                f"{', '.join(map(str, self.rejected))} hold NaN or Inf. Lower the learning rate, "
                "or look at these clients' data"
            )
        old = self.adapter.select(self.trained_schema(self.round))
        new = self.server.step(old, self._mean.mean())
        new.copy_into(self.adapter.tensors())
        self.adapter.copy_into(self.tensors)
        self.is_open = False
        self._mean = StreamingMean()
        return self.adapter

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and tensors; a client's weights only inside a visit."""
        local = None
        if self.inside_visit:
            local = (self._parked or AdapterState.capture(self.tensors)).buffers
        return {
            "experiment": self.planner.experiment,
            "schema": [[s.name, list(s.shape), s.dtype] for s in self.schema.specs],
            "visits": self._visits(),
            "round": self.round,
            "is_open": self.is_open,
            "position": self.position,
            "rejected": list(self.rejected),
            "adapter": {dtype: buffer.clone() for dtype, buffer in self.adapter.buffers.items()},
            "mean": self._mean.state_dict(),
            "local": local,
        }

    def _visits(self) -> list[list[int]]:
        visits = self.plan.visits if self.plan is not None else ()
        return [[v.client, v.num_examples, v.num_batches] for v in visits]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the tensors get the client's weights if it was in a visit.

        Raises:
            ConfigError: the state belongs to another model, method or experiment.
        """
        ours = {s.name: [list(s.shape), s.dtype] for s in self.schema.specs}
        theirs = {name: [shape, dtype] for name, shape, dtype in state["schema"]}
        if ours != theirs:
            names = sorted(n for n in {*ours, *theirs} if ours.get(n) != theirs.get(n))
            one = names[0]
            raise ConfigError(
                f"the checkpoint is of another model or method: {len(names)} trainable tensors "
                f"differ, first {one}: here {ours.get(one, 'absent')}, "
                f"in the checkpoint {theirs.get(one, 'absent')}"
            )
        if state["experiment"] != self.planner.experiment:
            raise ConfigError(
                f"the checkpoint is of the experiment with seed {state['experiment']}, this run "
                f"has seed {self.planner.experiment}: resume with federation.seed="
                f"{state['experiment']}"
            )
        round = state["round"]
        self.plan = None if round < 0 else self.planner.plan(round)
        if state["is_open"] and state["visits"] != self._visits():
            raise ConfigError(
                f"the checkpoint lies inside round {round + 1}, whose visits are others here: "
                "resume with the same data, data.clients, data.partition, data.batch_size and "
                "federation keys"
            )
        self.is_open, self.position = state["is_open"], state["position"]
        self.rejected = list(state["rejected"])
        device = next(iter(self.tensors.values())).device
        buffers = {dtype: buffer.to(device) for dtype, buffer in state["adapter"].items()}
        self.adapter = AdapterState(self.schema, buffers)
        self._mean.load_state_dict(state["mean"])
        self._mean.total = {k: v.to(device) for k, v in self._mean.total.items()}
        if state["local"] is not None:
            local = {dtype: buffer.to(device) for dtype, buffer in state["local"].items()}
            AdapterState(self.schema, local).copy_into(self.tensors)
        else:
            self.adapter.copy_into(self.tensors)
