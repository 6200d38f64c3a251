"""Mode sizes: how the two sides of a matrix become the modes of a tensor train."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedtt_lightning.errors import ConfigError

# Sizes that the general rule would not give. 4096 and 5120 are LoRETTA's published ones. Its sizes
# for 1024 x 64, [4,8,8,8,8,4], have no prefix with product 1024, so they do not split;
# [4,16,4,4,4,4,4] do, with the same number of parameters at every rank (both are 8 r + 32 r^2).
# LoRETTA's 768 x 64, [8,8,12,8,8], is what the general rule gives anyway.
_PUBLISHED: dict[int, tuple[int, ...]] = {
    1024: (4, 16, 4, 4),
    4096: (16, 16, 16),
    5120: (5, 8, 8, 16),
}
_BOTTLENECK_64: dict[int, tuple[int, ...]] = {1024: (4, 4, 4), 4096: (4, 4, 4), 5120: (8, 8)}


@dataclass(frozen=True)
class TTShape:
    """Modes of a matrix (in_features x out_features) held as one tensor train.

    Core `i` has shape (r_i, k_i, r_{i+1}) with k = in_modes + out_modes and r_0 = r_d = 1. The
    train splits on the boundary: cores of the input modes multiply to L (in x r), those of the
    output modes to R (r x out), and the matrix is L R.

    Attributes:
        in_modes: sizes whose product is in_features.
        out_modes: sizes whose product is out_features.

    Examples:
        >>> shape = TTShape.choose(768, 64)
        >>> shape.modes, shape.split
        ((8, 8, 12, 8, 8), 3)
        >>> shape.num_parameters(rank=5), 768 * 64
        (780, 49152)
    """

    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]

    def __post_init__(self) -> None:
        for side, modes in (("input", self.in_modes), ("output", self.out_modes)):
            if not modes:
                raise ConfigError(f"a tensor train needs at least one {side} mode")
            for mode in modes:
                if isinstance(mode, bool) or not isinstance(mode, int) or mode < 1:
                    raise ConfigError(
                        f"{side} modes {list(modes)}: {mode!r} is no positive integer"
                    )

    @classmethod
    def choose(cls, in_features: int, out_features: int) -> TTShape:
        """Modes for any matrix: LoRETTA's where published and split, else near-equal factors.

        The rule cuts each side into about log_8(n) factors of least sum, growing to the boundary.
        For 768 x 768 it gives [8,8,12,12,8,8], with which LoRETTA's published counts of the
        tensorized classifier come out; the sizes printed there, [12,8,8,8,8,12], have 160 fewer
        parameters at rank 5 (60,634 in place of 60,794 in all) and may be given explicitly.
        """
        if out_features == 64 and in_features in _PUBLISHED:
            return cls(_PUBLISHED[in_features], _BOTTLENECK_64[in_features])
        if in_features == 64 and out_features in _PUBLISHED:
            return cls(_BOTTLENECK_64[out_features][::-1], _PUBLISHED[out_features][::-1])
        return cls(balanced_factors(in_features), balanced_factors(out_features)[::-1])

    @classmethod
    def from_modes(
        cls, in_features: int, out_features: int, modes: Sequence[int], key: str = "modes"
    ) -> TTShape:
        """Explicit sizes as one flat list, cut where their product reaches `in_features`.

        Raises ConfigError, naming `key` and modes that fit, if the list has no such place or its
        product is not in_features * out_features.
        """
        fit = cls.choose(in_features, out_features)
        hint = f"{list(fit.modes)} would fit"
        shape = f"{in_features} x {out_features}"
        whole = cls(tuple(modes), (1,))
        if whole.in_features != in_features * out_features:
            raise ConfigError(
                f"{key}={list(modes)} multiply to {whole.in_features}, but {shape} needs "
                f"{in_features * out_features}; {hint}"
            )
        for cut in range(1, len(modes)):
            if math.prod(modes[:cut]) == in_features:
                return cls(tuple(modes[:cut]), tuple(modes[cut:]))
        raise ConfigError(
            f"{key}={list(modes)} do not split on the boundary of {shape}: "
            f"no first part of them multiplies to {in_features}; {hint}"
        )

    @property
    def modes(self) -> tuple[int, ...]:
        return self.in_modes + self.out_modes

    @property
    def split(self) -> int:
        """Number of input cores."""
        return len(self.in_modes)

    @property
    def in_features(self) -> int:
        return math.prod(self.in_modes)

    @property
    def out_features(self) -> int:
        return math.prod(self.out_modes)

    def core_shapes(self, rank: int, key: str = "rank") -> list[tuple[int, int, int]]:
        """Shapes (r_i, k_i, r_{i+1}) with one rank at every inner bond, as LoRETTA has it.

        Raises ConfigError, naming `key`, if `rank` is below 1 or above min(in, out): the matrix L R
        cannot have a higher rank.
        """
        largest = min(self.in_features, self.out_features)
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
            raise ConfigError(
                f"{key}={rank!r} does not fit a {self.in_features} x {self.out_features} matrix: "
                f"the smallest rank is 1, the largest {largest}"
            )
        bonds = [1] + [rank] * (len(self.modes) - 1) + [1]
        return [(bonds[i], mode, bonds[i + 1]) for i, mode in enumerate(self.modes)]

    def num_parameters(self, rank: int) -> int:
        """Entries of all cores together, without a bias."""
        return sum(math.prod(shape) for shape in self.core_shapes(rank))


@lru_cache(maxsize=256)
def balanced_factors(n: int) -> tuple[int, ...]:
    """`n` as about log_8(n) ascending factors above 1 of least sum; fewer if its primes are few."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ConfigError(f"a matrix side must be a positive integer, not {n!r}")
    if n == 1:
        return (1,)
    for count in range(max(1, round(math.log(n, 8))), 0, -1):
        options = list(_factorisations(n, count, 2))
        if options:
            return min(options, key=lambda factors: (sum(factors), factors))
    raise AssertionError("one factor always exists")


def _factorisations(n: int, count: int, least: int) -> Iterator[tuple[int, ...]]:
    """All ascending tuples of `count` factors of n, none below `least`."""
    if count == 1:
        if n >= least:
            yield (n,)
        return
    factor = least
    while factor**count <= n:
        if n % factor == 0:
            for rest in _factorisations(n // factor, count - 1, factor):
                yield (factor, *rest)
        factor += 1
