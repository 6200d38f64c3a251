"""Numbers as integers modulo a power of two, the form in which secure aggregation adds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError, FederationError

_FEWEST_BITS, _MOST_BITS = 8, 62  # the sum of two residues must fit an int64


class FixedPointCodec:
    """Writes vectors as integers modulo 2^bits, whose sums over clients can be read back.

    As in Bonawitz et al. (CCS 2017) and Flower's SecAgg+. How fine the steps are follows from the
    values' limit and from how many clients there can be: a sum of all of them fits the modulus.

    Args:
        bits: of the modulus, 8 to 62; a client sends so many a value.
    """

    def __init__(self, bits: int = 32) -> None:
        self.bits = bits

    def __repr__(self) -> str:
        return f"FixedPointCodec(bits={self.bits})"

    def check(self, clients: int) -> None:
        """Raise ConfigError if sums of so many clients cannot be written with these bits."""
        if not _FEWEST_BITS <= self.bits <= _MOST_BITS:
            raise ConfigError(
                f"federation.aggregation.codec.bits is {self.bits}, but must lie between "
                f"{_FEWEST_BITS} and {_MOST_BITS}"
            )
        if clients > self._half - 1:
            raise ConfigError(
                f"federation.aggregation.codec.bits={self.bits} has no room for a sum over "
                f"{clients} clients: raise it"
            )

    def grid(self, limit: float, clients: int, key: str) -> Grid:
        """Return the integers for values of at most `limit` and sums of at most `clients` of them.

        Args:
            limit: largest magnitude of a client's value.
            key: what a user would raise if a value exceeds it, for the message.
        """
        self.check(clients)
        return Grid(self.bits, limit, clients, (self._half - 1) // clients, key)

    @property
    def _half(self) -> int:
        return 2 ** (self.bits - 1)


def rounding_error(total: Tensor, exact: Tensor) -> float:
    """Return how far a sum is from the exact one, relative to the latter's length (L2)."""
    length = float(torch.linalg.vector_norm(exact))
    return float(torch.linalg.vector_norm(total - exact)) / length if length > 0 else 0.0


@dataclass(frozen=True)
class Grid:
    """Evenly spaced values from -limit to limit, `2 · steps + 1` of them.

    Attributes:
        steps: the integer that stands for `limit`; `clients · steps < 2^(bits - 1)`.
    """

    bits: int
    limit: float
    clients: int
    steps: int
    key: str

    @property
    def resolution(self) -> float:
        """The distance of neighbouring values; rounding errs by half of it at most."""
        return self.limit / self.steps

    def encode(self, values: Tensor) -> Tensor:
        """Return each value's nearest integer modulo 2^bits, int64, of the shape of `values`.

        Raises:
            FederationError: a value is larger than the limit, or none.
        """
        values = values.double()
        fits = values.abs() <= self.limit  # false for NaN
        if not bool(fits.all()):
            worst = float(values[~fits].abs().max())
            raise FederationError(
                f"a value of {worst:.6g} exceeds the range ±{self.limit:.6g} of fixed-point "
                f"numbers: raise {self.key}"
            )
        steps = torch.round(values * (self.steps / self.limit)).long()
        return steps.clamp(-self.steps, self.steps) % 2**self.bits  # float64 may round beyond

    def decode(self, total: Tensor) -> Tensor:
        """Return the sum of the values whose integers were added modulo 2^bits, float64.

        Raises:
            FederationError: it is larger than `clients` values can make it.
        """
        half = 2 ** (self.bits - 1)
        signed = (total + half) % 2**self.bits - half
        largest = int(signed.abs().max()) if signed.numel() else 0
        if largest > self.clients * self.steps:
            raise FederationError(
                f"a sum of fixed-point numbers is {largest * self.resolution:.6g}, more than "
                f"{self.clients} clients can send: masks are left in it, or it has overflowed"
            )
        return signed.double() * self.resolution
