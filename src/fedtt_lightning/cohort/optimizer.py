"""One optimizer for several clients, each with a state, a schedule and a clipping of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler

# They treat each number of a tensor by itself, whatever tensor it is in.
_ELEMENTWISE = (SGD, Adam, AdamW, RMSprop)


@dataclass(frozen=True)
class Schedule:
    """A scheduler of the optimizer and what it counts."""

    scheduler: LRScheduler
    interval: Literal["step", "epoch"] | str


def steps_together(optimizer: Optimizer, schedules: Sequence[Schedule]) -> bool:
    """Tell whether stacked parameters can be stepped as if they were those of one client.

    That is to say, with the same numbers, in as many operations as for one client.
    """
    same = all(schedule.interval == "step" for schedule in schedules)
    return same and type(optimizer) in _ELEMENTWISE and not optimizer.state


@dataclass
class _Slot:
    """What an optimizer and its schedulers hold while they serve one client."""

    parameters: list[list[Tensor]]
    settings: list[dict[str, Any]]
    schedules: list[dict[str, Any]]
    state: defaultdict[Any, Any]


class ClientOptimizers(Optimizer):
    """Lets an optimizer and its schedulers step one client after another in each of its steps.

    They are the ones of the module, configured once: before a client's step they get its
    parameters, state and settings, so that any optimizer works, and elementwise or not makes no
    difference. Between steps they are as they were configured.

    Args:
        optimizer: the module's own.
        schedules: its schedulers, which nobody else may step.
        clip: clips the gradients of what the optimizer it is given would step.
        around: runs the closure (forward and backward pass of all clients).
        serving: what is entered while a client's turn lasts, such as its random generators.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedules: Sequence[Schedule],
        clip: Callable[[Optimizer], None],
        around: Callable[[Callable[[], Any]], Any],
        serving: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        # Optimizer's own __init__ would begin anew with groups; these are the wrapped one's.
        self.param_groups, self.state = optimizer.param_groups, optimizer.state
        self.defaults = optimizer.defaults
        self.optimizer = optimizer
        self._schedules = schedules
        self._clip, self._around, self._serving = clip, around, serving
        self._initial = self._held()
        self._slots: list[_Slot] = []
        self._ends_epoch: Sequence[bool] = ()

    def begin(self, own: Sequence[Mapping[Tensor, Tensor]]) -> None:
        """Start afresh with clients, each given by what stands for the module's parameters.

        Where `steps_together` says so, stacked parameters may be given, as those of one client.
        """
        self._slots = [
            _Slot(
                [[client.get(p, p) for p in group] for group in self._initial.parameters],
                deepcopy(self._initial.settings),
                deepcopy(self._initial.schedules),
                defaultdict(
                    dict, {client[p]: deepcopy(s) for p, s in self.state.items() if p in client}
                ),
            )
            for client in own
        ]

    def keep(self, shorter: Mapping[Tensor, Tensor]) -> None:
        """Go on with the first clients of stacked ones: `shorter` has the new tensor of each."""
        for slot in self._slots:
            slot.parameters = [[shorter.get(p, p) for p in group] for group in slot.parameters]
            for old, new in shorter.items():
                if (state := slot.state.pop(old, None)) is not None:
                    slot.state[new] = {
                        key: value[: len(new)] if _is_like(value, old) else value
                        for key, value in state.items()
                    }

    def prepare(self, ends_epoch: Sequence[bool]) -> None:
        """Say for each of the first clients, which take the next step, if it ends a local epoch."""
        self._ends_epoch = ends_epoch

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        assert closure is not None
        with torch.enable_grad():
            result = self._around(closure)
        try:
            for client, ends_epoch in enumerate(self._ends_epoch):
                self._hold(self._slots[client])
                self._clip(self.optimizer)
                with self._serving(client):
                    self.optimizer.step()
                for schedule in self._schedules:
                    if schedule.interval == "step" or ends_epoch:
                        schedule.scheduler.step()
                self._slots[client] = self._held()
        finally:
            self._hold(self._initial)
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's as it was configured; clients' are in `clients_state`."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: every client starts from what was configured, or `load_clients_state`."""

    def clients_state(self) -> list[dict[str, Any]]:
        """Return each client's optimizer state, by the place of its parameter, and schedules."""
        found = []
        for slot in self._slots:
            places = {id(p): i for i, p in enumerate(p for group in slot.parameters for p in group)}
            state = {places[id(p)]: value for p, value in slot.state.items()}
            found.append({"settings": slot.settings, "schedules": slot.schedules, "state": state})
        return deepcopy(found)

    def load_clients_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Go on from `clients_state`, after `begin` with as many clients."""
        for slot, saved in zip(self._slots, deepcopy(state), strict=True):
            places = [p for group in slot.parameters for p in group]
            slot.settings, slot.schedules = saved["settings"], saved["schedules"]
            slot.state.update({places[place]: value for place, value in saved["state"].items()})

    def _held(self) -> _Slot:
        groups = self.optimizer.param_groups
        return _Slot(
            [group["params"] for group in groups],
            [{key: value for key, value in group.items() if key != "params"} for group in groups],
            [schedule.scheduler.state_dict() for schedule in self._schedules],
            self.optimizer.state,
        )

    def _hold(self, slot: _Slot) -> None:
        self.optimizer.state = slot.state
        for group, parameters, settings in zip(
            self.optimizer.param_groups, slot.parameters, slot.settings, strict=True
        ):
            group.update(settings)
            group["params"] = parameters
        for schedule, state in zip(self._schedules, slot.schedules, strict=True):
            schedule.scheduler.load_state_dict(state)


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape
