"""Freezing schedules: which of the trainable tensors train, and travel, in a round."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.adapter_state import AdapterState

_FACTOR = re.compile(r"^(.*)core_(\d+)$")


class FreezingSchedule(ABC):
    """A function from the round to the names that train.

    It may depend on nothing but its arguments and, in a schedule that learns, on the aggregated
    updates it was shown, which it then keeps in `state_dict`.
    """

    @abstractmethod
    def trained(self, names: Sequence[str], round: int, experiment: int = 0) -> frozenset[str]:
        """Return the names, out of all trainable ones, that train in a round (0-based).

        Random choices are keyed by (experiment, round).
        """

    def observe(self, round: int, update: AdapterState) -> None:  # noqa: B027 - most do not learn
        """Take note of a round's aggregated update (float64 buffers)."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned, as plain numbers, lists and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Go on from `state_dict`."""

    def __repr__(self) -> str:
        settings = {k: v for k, v in sorted(vars(self).items()) if not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"

    def check(self, names: Sequence[str]) -> None:
        """Raise ConfigError if the schedule does not fit these trainable names."""
        if not self.trained(names, 0):
            raise ConfigError(
                f"{type(self).__name__} would freeze every trainable parameter: choose another "
                "schedule of FactorFreezing in trainer.callbacks, or let more of the model train"
            )


class TrainAll(FreezingSchedule):
    """Nothing is frozen: FedTT, and plain federated averaging of any method."""

    def trained(self, names: Sequence[str], round: int, experiment: int = 0) -> frozenset[str]:
        return frozenset(names)


def factor_groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Group the names of tensor-train factors by what stands before `core_<number>`, in order."""
    groups: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _FACTOR.match(name):
            groups.setdefault(match[1], {})[int(match[2])] = name
    return {prefix: [cores[i] for i in sorted(cores)] for prefix, cores in groups.items()}
