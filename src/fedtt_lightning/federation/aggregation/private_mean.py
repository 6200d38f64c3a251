"""The mean under central differential privacy: bounded updates, noise, a divisor nobody changes."""

from __future__ import annotations

from math import exp, inf
from typing import Any

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.aggregation.calibration import Calibration, update_noise
from fedtt_lightning.federation.aggregation.flat import flatten, unflatten
from fedtt_lightning.federation.aggregation.secure_rule import SecureRule
from fedtt_lightning.federation.fixed_point import FixedPointCodec, rounding_error
from fedtt_lightning.federation.secure_sum import ModularSum, SecureSum


class PrivateMean(SecureRule):
    """Sum of clipped updates plus Gaussian noise, over the expected number of clients.

    McMahan et al., arXiv 1710.06963: each update is scaled to an L2 norm of at most `clip` over
    all tensors that travelled, noise of standard deviation `noise_multiplier · clip` is added to
    the sum, and that is divided by a fixed number, so that one client changes the sum by no more
    than `clip`. The callback `CentralDP` sets the noise and accounts for it. All clients count the
    same. Noise is keyed by (key, round), drawn at once for all tensors that travelled.

    With `quantile` the clip follows that quantile of the updates' norms (Andrew et al., arXiv
    1905.03871): `C ← C · exp(−clip_lr · (b − quantile))`, b being the noised share of updates that
    were not clipped. Each client's bit counts as ±1/2 with noise `bit_noise`, and the updates'
    noise grows to `(z^-2 − (2 bit_noise)^-2)^(-1/2)`, so that both cost what z alone would.
    Who does not answer counts as neither, so with many dropouts the clip finds no high quantile.
    Metrics: `dp/clip`, and with `quantile` the noised `dp/clipped_share`.

    With `codec` nobody ever sees a sum without noise. Each client adds its share of the noise,
    variance `(noise_multiplier · clip)² / m`, to its clipped update, m being the fewest clients a
    round can have, so that the sum over any who answer has the full noise or more; the bit travels
    in the same vector, with its own share. That is written in fixed point and added through
    `transport`. ε is then that of the continuous mechanism, against a server that follows the
    protocol and whoever took no part: a client knows its own share of the noise, without which
    `(m − 1) / m` of the variance are left; several that tell each other theirs leave less. Rounding
    of shares is not accounted for either, as the distributed discrete Gaussian (Kairouz et al.,
    arXiv 2102.06387) would. The metric `secure/quantization_error` is what rounding changed in the
    noised sum, relative to its length (L2), which a real server cannot know.

    Args:
        clip: largest L2 norm of an update; with `quantile`, of the first round.
        quantile: share of the updates that should not be clipped; a fixed clip if not given.
        clip_lr: learning rate of the clip.
        bit_noise: standard deviation of the noise on the number of updates that were not clipped;
            a twentieth of the expected clients if not given.
        codec: lets clients add the noise, and send fixed-point numbers.
        transport: the protocol that adds these; one without masks if not given.

    Raises:
        ConfigError: from `check` and `calibrate`, if a setting makes no sense.
    """

    companion = "CentralDP"

    def __init__(
        self,
        clip: float = 1.0,
        quantile: float | None = None,
        clip_lr: float = 0.2,
        bit_noise: float | None = None,
        codec: FixedPointCodec | None = None,
        transport: SecureSum | None = None,
    ) -> None:
        self.clip = clip
        self.quantile = quantile
        self.clip_lr = clip_lr
        self.bit_noise = bit_noise
        self.codec = codec
        self.transport = transport
        self._secure = transport or ModularSum()
        self._calibration: Calibration | None = None
        self._round = 0
        self._clip = float(clip)
        self._metrics: dict[str, float] = {}
        self.reset()

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:
        name = "federation.aggregation"
        if not 0 < self.clip < inf:
            raise ConfigError(f"{name}.clip is {self.clip}, but must be > 0")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise ConfigError(f"{name}.quantile is {self.quantile}, but must lie between 0 and 1")
        if not 0 < self.clip_lr < inf:
            raise ConfigError(f"{name}.clip_lr is {self.clip_lr}, but must be > 0")
        if self.bit_noise is not None and not 0 < self.bit_noise < inf:
            raise ConfigError(f"{name}.bit_noise is {self.bit_noise}, but must be > 0")
        if self.transport is not None and self.codec is None:
            raise ConfigError(
                f"{name}.transport adds integers: set {name}.codec to "
                "fedtt_lightning.federation.FixedPointCodec"
            )

    def calibrate(
        self,
        noise_multiplier: float,
        expected_clients: float,
        key: int,
        fewest_clients: int = 1,
        most_clients: int = 1,
        hidden_cohort: bool = True,
    ) -> None:
        """Set a run's noise; without it there is no result. `Calibration` tells of the arguments.

        Args:
            noise_multiplier: noise in units of the clip that a round costs, the bits included.

        Raises:
            ConfigError: the bits' noise alone would cost more than that, or the codec has no room.
        """
        if self.codec is not None:
            self.codec.check(most_clients)
        bits, updates = None, noise_multiplier
        if self.quantile is not None:
            bits = expected_clients / 20 if self.bit_noise is None else self.bit_noise
            updates = update_noise(noise_multiplier, bits)
            bits = bits if noise_multiplier > 0 else 0.0  # or else there is no privacy to keep
        self._calibration = Calibration(
            updates,
            bits,
            expected_clients,
            key,
            fewest_clients,
            most_clients,
            hidden_cohort,
        )

    def problem(self, updates: int) -> str | None:
        """Tell whether the shares of so many clients add up to too little noise."""
        fewest = 1 if self._calibration is None else self._calibration.fewest_clients
        if self.codec is None or updates >= fewest:
            return None
        return f"noise is shared out on {fewest} clients, and {updates} answered"

    def open(self, round: int) -> None:
        self._round = round
        self._metrics = {"dp/clip": self._clip}
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self._schema: AdapterSchema | None = None
        self._total: Tensor | None = None  # with a codec only to measure the rounding
        if self.codec is not None:
            self._secure.open(self._round, self.codec.bits)

    @property
    def bits(self) -> int | None:
        return None if self.codec is None else self.codec.bits

    def size(self, schema: AdapterSchema) -> int:
        return schema.numel + (self.quantile is not None)

    def add(self, client: int, start: AdapterState, update: AdapterState, weight: float) -> None:
        """Count a client's clipped update; `weight` plays no part."""
        values = self._clipped(client, update)
        if self.codec is not None:
            noise = self._calibrated
            self._secure.add(client, noise.encode(self.codec, self._clip, values))
        self._total = values if self._total is None else self._total + values
        self._schema = update.schema
        self.count += 1

    def message(self, client: int, update: AdapterState, weight: float) -> Tensor:
        assert self.codec is not None
        return self._calibrated.encode(self.codec, self._clip, self._clipped(client, update))

    def take(self, total: Tensor, clients: int, schema: AdapterSchema) -> None:
        self._secure.add(-1, total)  # of nobody in particular
        self._schema = schema
        self.count += clients

    def _clipped(self, client: int, update: AdapterState) -> Tensor:
        """Return a client's part of the sum, float64, with its share of the noise if it has one."""
        values = flatten(update)
        norm = float(torch.linalg.vector_norm(values))
        if norm > self._clip:
            values = values * (self._clip / norm)
        if self.quantile is not None:
            values = torch.cat([values, values.new_tensor([0.5 if norm <= self._clip else -0.5])])
        if self.codec is None:
            return values
        noise = self._calibrated
        return values + noise.share(values, self._clip, "noise share", self._round, client)

    def result(self, old: AdapterState) -> AdapterState:
        assert self._schema is not None
        if self.codec is None:
            assert self._total is not None
            return self._release(self._with_noise(self._total), self._schema)
        if problem := self.problem(self.count):
            raise FederationError(f"round {self._round + 1} is not private: {problem}")
        total = self._calibrated.decode(self.codec, self._clip, self._secure.total())
        if self._total is not None:
            size = self._schema.numel
            error = rounding_error(total[:size], self._total[:size])
            self._metrics["secure/quantization_error"] = error
        return self._release(total, self._schema)

    def empty(self, schema: AdapterSchema) -> AdapterState | None:
        """Return noise where cohorts are hidden: a round without clients must look like others."""
        if self.codec is not None or not self._calibrated.hidden_cohort:
            return None
        total = torch.zeros(schema.numel + (self.quantile is not None), dtype=torch.float64)
        return self._release(self._with_noise(total), schema)

    def metrics(self) -> dict[str, float]:
        return dict(self._metrics)

    @property
    def _calibrated(self) -> Calibration:
        if self._calibration is None:
            raise FederationError(
                "PrivateMean has no noise: the callback CentralDP has to set it before a run"
            )
        return self._calibration

    def _with_noise(self, total: Tensor) -> Tensor:
        return total + self._calibrated.noise(total, self._clip, "central noise", self._round)

    def _release(self, total: Tensor, schema: AdapterSchema) -> AdapterState:
        """Divide the noised sum, and move the clip by the noised share of clipped updates."""
        mean = total / self._calibrated.expected_clients
        if self.quantile is not None:
            inside = float(mean[-1]) + 0.5
            self._metrics["dp/clipped_share"] = min(max(1 - inside, 0.0), 1.0)
            self._clip *= exp(-self.clip_lr * (inside - self.quantile))
            mean = mean[:-1]
        return unflatten(mean, schema)

    def state_dict(self) -> dict[str, Any]:
        return {
            "round": self._round,
            "clip": self._clip,
            "metrics": dict(self._metrics),
            "count": self.count,
            "schema": None if self._schema is None else self._schema.rows(),
            "total": self._total,
            "secure": None if self.codec is None else self._secure.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._round, self._clip, self.count = state["round"], state["clip"], state["count"]
        self._metrics, self._total = dict(state["metrics"]), state["total"]
        rows = state["schema"]
        self._schema = None if rows is None else AdapterSchema.from_rows(rows)
        if self.codec is not None:
            self._secure.load_state_dict(state["secure"])
