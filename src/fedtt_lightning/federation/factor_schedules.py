"""FedTT+ and its variants: which factors of each tensor train learn in a round.

The first and the last factor of a train always do, and some of those between them: the schedules
here differ in which (arXiv 2410.13097 does not say how its one is chosen). Parameters outside
tensor trains, such as a dense head, always train.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import torch

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.adapter_state import AdapterState
from fedtt_lightning.federation.freezing import FreezingSchedule, factor_groups
from fedtt_lightning.federation.seeds import generator_for


class FactorSchedule(FreezingSchedule):
    """Trains the first, the last and `count` middle factors of each tensor train.

    Args:
        count: how many middle factors train at a time.
        biases: whether the biases that belong to tensor trains train and travel.
    """

    def __init__(self, count: int = 1, biases: bool = True) -> None:
        if count < 1:
            raise ConfigError(f"{type(self).__name__}: count is {count}, but must be 1 or more")
        self.count = count
        self.biases = biases

    @abstractmethod
    def choose(self, trains: list[list[str]], round: int, experiment: int) -> Collection[str]:
        """Return the middle factors that train in a round.

        `trains` holds the names of the middle factors of each tensor train, in order.
        """

    def trained(self, names: Sequence[str], round: int, experiment: int = 0) -> frozenset[str]:
        groups = factor_groups(names)
        trains = [groups[prefix][1:-1] for prefix in sorted(groups)]
        frozen = {name for middles in trains for name in middles}
        frozen.difference_update(self.choose(trains, round, experiment))
        if not self.biases:
            frozen.update(f"{prefix}bias" for prefix in groups)
        return frozenset(names) - frozen

    def check(self, names: Sequence[str]) -> None:
        kind = f"{type(self).__name__} (FedTT+)"
        groups = factor_groups(names)
        if not groups:
            raise ConfigError(
                f"{kind} needs tensor-train factors, but no trainable parameter is one: set "
                "model.peft to TTAdapterConfig, or remove the FactorFreezing callback"
            )
        for prefix, factors in groups.items():
            if len(factors) < 3:
                raise ConfigError(
                    f"{kind} needs 3 or more factors in each tensor train, but {prefix}core_* has "
                    f"{len(factors)}: choose mode sizes with more factors"
                )
            self._check_train(kind, prefix, len(factors))
        super().check(names)

    def _check_train(self, kind: str, prefix: str, length: int) -> None:
        if self.count > length - 2:
            raise ConfigError(
                f"{kind}: count is {self.count}, but {prefix}core_* has {length - 2} factors "
                f"between its first and its last: set count to {length - 2} or less"
            )


class RotatingFactor(FactorSchedule):
    """The middle factors in turn: round t (from 0) trains number 2 + t mod (J - 2) of 1..J.

    With a `count` of k, the next k in the circle of middle factors.

    Args:
        count: how many middle factors train at a time.
        biases: whether the biases that belong to tensor trains train and travel.

    Examples:
        >>> names = [f"up_core_{i}" for i in range(5)]
        >>> for round in range(3):
        ...     print(sorted(RotatingFactor().trained(names, round)))
        ['up_core_0', 'up_core_1', 'up_core_4']
        ['up_core_0', 'up_core_2', 'up_core_4']
        ['up_core_0', 'up_core_3', 'up_core_4']
    """

    def choose(self, trains: list[list[str]], round: int, experiment: int) -> Collection[str]:
        first = round * self.count
        return {
            middles[(first + i) % len(middles)]
            for middles in trains
            for i in range(self.count)
            if middles
        }


class RandomFactor(FactorSchedule):
    """Middle factors drawn anew each round, without replacement, for each train on its own.

    Args:
        count: how many middle factors train at a time.
        biases: whether the biases that belong to tensor trains train and travel.
    """

    def choose(self, trains: list[list[str]], round: int, experiment: int) -> Collection[str]:
        rng = generator_for(experiment, "factor", round)
        chosen: set[str] = set()
        for middles in trains:
            chosen.update(middles[i] for i in rng.choice(len(middles), self.count, replace=False))
        return chosen


class FixedFactor(FactorSchedule):
    """The same middle factors in every round.

    Args:
        factors: their numbers, counted from 1 as in the paper: 2 to J - 1 of J.
        biases: whether the biases that belong to tensor trains train and travel.
    """

    def __init__(self, factors: list[int], biases: bool = True) -> None:
        super().__init__(len(set(factors)) or 1, biases)
        self.factors = sorted(set(factors))

    def choose(self, trains: list[list[str]], round: int, experiment: int) -> Collection[str]:
        # Number 2 is the first of the middle ones.
        return {middles[number - 2] for middles in trains for number in self.factors}

    def _check_train(self, kind: str, prefix: str, length: int) -> None:
        outside = [number for number in self.factors if not 2 <= number <= length - 1]
        if outside or not self.factors:
            given = f"has {outside[0]}" if outside else "is empty"
            raise ConfigError(
                f"{kind}: factors {given}, but the middle factors of {prefix}core_* are 2 to "
                f"{length - 1} (of 1 to {length})"
            )


class AdaptiveFactor(FactorSchedule):
    """The middle factors whose mean update was largest when they last trained.

    Largest in the Frobenius norm of the aggregated update, which the server holds anyway: nothing
    more is sent. A factor that has not trained yet goes first, in order, so each is tried once.

    Args:
        count: how many middle factors train at a time.
        biases: whether the biases that belong to tensor trains train and travel.
    """

    def __init__(self, count: int = 1, biases: bool = True) -> None:
        super().__init__(count, biases)
        self._norms: dict[str, float] = {}

    def choose(self, trains: list[list[str]], round: int, experiment: int) -> Collection[str]:
        chosen: set[str] = set()
        for middles in trains:
            ranked = sorted(middles, key=self._urgency)  # stable: ties in order
            chosen.update(ranked[: self.count])
        return chosen

    def _urgency(self, name: str) -> float:
        return -self._norms.get(name, float("inf"))

    def observe(self, round: int, update: AdapterState) -> None:
        values = update.tensors()
        for factors in factor_groups(list(values)).values():
            for name in factors:
                self._norms[name] = float(torch.linalg.vector_norm(values[name]))

    def state_dict(self) -> dict[str, Any]:
        return {"norms": dict(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._norms = dict(state["norms"])
