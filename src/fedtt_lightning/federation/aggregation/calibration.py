"""How much noise a private mean adds, and its draws."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.fixed_point import FixedPointCodec, Grid
from fedtt_lightning.federation.seeds import generator_for

# Standard deviations of a client's noise that its fixed-point numbers have room for: one value in
# 10^22 lies beyond, so few that cutting them changes no δ.
_TAIL = 10.0


@dataclass(frozen=True)
class Calibration:
    """What the callback CentralDP sets for a run.

    Attributes:
        update_noise: standard deviation of the noise on the updates' sum, in units of the clip.
        bit_noise: standard deviation of the noise on the number of updates that were not clipped;
            None if nobody asks for it.
        expected_clients: what sums are divided by, whoever answers.
        key: keys all noise.
        fewest_clients: answers that always come, on which distributed noise is shared out.
        most_clients: answers that may come at most.
        hidden_cohort: whether nobody may learn that a round had no client.
    """

    update_noise: float
    bit_noise: float | None
    expected_clients: float
    key: int
    fewest_clients: int
    most_clients: int
    hidden_cohort: bool

    def noise(self, like: Tensor, clip: float, *keys: int | str) -> Tensor:
        """Return the noise of a round's sum of vectors, whose last value may be the bit.

        One draw of float64 for `keys`. NumPy's generators use all bits of a seed, torch's on a CPU
        the lower 32 only, of which all could be tried.
        """
        draw = torch.from_numpy(generator_for(self.key, *keys).standard_normal(len(like)))
        noise = draw * (self.update_noise * clip)
        if self.bit_noise is not None:
            noise[-1] = draw[-1] * self.bit_noise
        return noise.to(like.device)

    def share(self, like: Tensor, clip: float, *keys: int | str) -> Tensor:
        """Return a client's share of it: those of `fewest_clients` add up to all."""
        return self.noise(like, clip, *keys) / sqrt(self.fewest_clients)

    def encode(self, codec: FixedPointCodec, clip: float, values: Tensor) -> Tensor:
        """Return a client's noised vector as integers; what lies beyond the room for it is cut."""
        parts = zip(self._grids(codec, clip), self._split(values), strict=True)
        return torch.cat([g.encode(part.clamp(-g.limit, g.limit)) for g, part in parts])

    def decode(self, codec: FixedPointCodec, clip: float, total: Tensor) -> Tensor:
        """Return the sum of vectors whose integers were added."""
        parts = zip(self._grids(codec, clip), self._split(total), strict=True)
        return torch.cat([grid.decode(part) for grid, part in parts])

    def _grids(self, codec: FixedPointCodec, clip: float) -> tuple[Grid, Grid]:
        key, tail = "federation.aggregation.codec.bits", _TAIL / sqrt(self.fewest_clients)
        value = clip * (1 + 1e-9 + tail * self.update_noise)
        bit = 0.5 + tail * (self.bit_noise or 0.0)
        return codec.grid(value, self.most_clients, key), codec.grid(bit, self.most_clients, key)

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        size = len(values) - (self.bit_noise is not None)
        return values[:size], values[size:]


def update_noise(noise_multiplier: float, bit_noise: float) -> float:
    """Return the updates' noise with which they and the bits cost what the multiplier alone does.

    `(z^-2 − (2 bit_noise)^-2)^(-1/2)`: Andrew et al., arXiv 1905.03871, theorem 1; bits of ±1/2
    have noise multiplier 2 bit_noise.

    Raises:
        ConfigError: the bits alone cost more.
    """
    if noise_multiplier == 0:
        return 0.0
    if 2 * bit_noise <= noise_multiplier:
        raise ConfigError(
            f"federation.aggregation.bit_noise is {bit_noise:g} (a twentieth of the expected "
            f"clients if not set), which alone costs more than noise multiplier "
            f"{noise_multiplier:g} allows: set it above {noise_multiplier / 2:g}; at "
            f"{noise_multiplier:g} the noise on the updates grows by 15 %"
        )
    return float((noise_multiplier**-2 - (2 * bit_noise) ** -2) ** -0.5)
