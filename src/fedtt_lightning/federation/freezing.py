"""Freezing schedules: which of the trainable tensors train, and travel, in a round."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

from fedtt_lightning.errors import ConfigError

_FACTOR = re.compile(r"^(.*)core_(\d+)$")


class FreezingSchedule(ABC):
    """A pure function from the round to the names that train."""

    @abstractmethod
    def trained(self, names: Sequence[str], round: int) -> frozenset[str]:
        """Return the names, out of all trainable ones, that train in a round (0-based)."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in sorted(vars(self).items()))
        return f"{type(self).__name__}({settings})"

    def check(self, names: Sequence[str]) -> None:
        """Raise ConfigError if the schedule does not fit these trainable names."""
        if not self.trained(names, 0):
            raise ConfigError(f"{type(self).__name__} would freeze every trainable parameter")


class TrainAll(FreezingSchedule):
    """Nothing is frozen: FedTT, and plain federated averaging of any method."""

    def trained(self, names: Sequence[str], round: int) -> frozenset[str]:
        return frozenset(names)


class RotatingFactor(FreezingSchedule):
    """FedTT+: of each tensor train, the first, the last and one rotating middle factor train.

    Round t (from 0) trains middle factor number `2 + t mod (J - 2)` of J, counted from 1
    (arXiv 2410.13097; which middle factor the authors take in which round is not known, nor
    whether biases train). Parameters outside tensor trains, such as a dense head, always train.

    Args:
        biases: whether the biases that belong to tensor trains train and travel.
    """

    def __init__(self, biases: bool = True) -> None:
        self.biases = biases

    def check(self, names: Sequence[str]) -> None:
        trains = factor_groups(names)
        if not trains:
            raise ConfigError(
                "RotatingFactor (FedTT+) needs tensor-train factors, but no trainable parameter is "
                "one: set model.peft to TTAdapterConfig, or remove the FactorFreezing callback"
            )
        for prefix, factors in trains.items():
            if len(factors) < 3:
                raise ConfigError(
                    f"RotatingFactor (FedTT+) needs 3 or more factors in each tensor train, but "
                    f"{prefix}core_* has {len(factors)}: choose mode sizes with more factors"
                )

    def trained(self, names: Sequence[str], round: int) -> frozenset[str]:
        names_set = set(names)
        frozen: set[str] = set()
        for prefix, factors in factor_groups(names).items():
            last = len(factors) - 1
            middle = 1 + round % max(last - 1, 1)
            frozen.update(name for i, name in enumerate(factors) if i not in (0, middle, last))
            if not self.biases:
                frozen.add(f"{prefix}bias")
        return frozenset(names_set - frozen)


def factor_groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Group the names of tensor-train factors by what stands before `core_<number>`, in order."""
    groups: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _FACTOR.match(name):
            groups.setdefault(match[1], {})[int(match[2])] = name
    return {prefix: [cores[i] for i in sorted(cores)] for prefix, cores in groups.items()}
