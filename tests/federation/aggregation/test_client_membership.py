"""An attack on what a round releases: one client's part in it shows as rarely as the noise says."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from federation.aggregation.test_robust import OLD, WIDTH, flat, update
from fedtt_lightning.federation import FixedPointCodec, PrivateMean

DRAWS, CLIENTS, NOISE, CLIP, LR, BIT_NOISE = 1000, 3, 0.8, 0.7, 0.2, 0.9
QUIET, LOUD = update(np.zeros(WIDTH)), update(np.full(WIDTH, 1e3))


def releases(loud: bool, **options: Any) -> np.ndarray:
    """Return of many rounds the sum along a client's update, and how many were not clipped.

    The attacker knows all settings and other updates; a clip tells the number that moved it.
    """
    seen = []
    for key in range(DRAWS):
        rule = PrivateMean(clip=CLIP, clip_lr=LR, **options)
        rule.calibrate(NOISE, CLIENTS, key + DRAWS * loud, CLIENTS, CLIENTS)
        rule.open(0)
        rule.add(0, OLD, QUIET, 1.0)
        rule.add(1, OLD, QUIET, 1.0)
        if loud or rule.quantile is None:  # with bits a client that is silent sends none
            rule.add(2, OLD, LOUD if loud else QUIET, 1.0)
        along = flat(rule.result(OLD)).sum() / np.sqrt(WIDTH) * CLIENTS
        rule.open(1)
        inside = (rule.quantile or 0) - log(rule.metrics()["dp/clip"] / CLIP) / LR
        seen.append((along, (inside - 0.5) * CLIENTS - 1))  # less the other clients' bits
    return np.array(seen)


@pytest.mark.parametrize(
    "options",
    [{}, {"quantile": 0.5, "bit_noise": BIT_NOISE}, {"codec": FixedPointCodec()}],
    ids=["fixed clip", "adaptive clip", "shares"],
)
def test_the_best_attack_gains_what_theory_allows(options: dict[str, Any]) -> None:
    """True less false positives of the best test of N(0, 1) against N(1/z, 1): 2Φ(1/2z) − 1.

    Gaussian DP, Dong et al., arXiv 1905.02383; z is the noise multiplier, the bits included.
    """
    shift, deviation = np.array([CLIP, 0.0]), np.array([NOISE * CLIP, 1.0])
    if "quantile" in options:
        shift[1], deviation[1] = -0.5, BIT_NOISE
        deviation[0] = (NOISE**-2 - (2 * BIT_NOISE) ** -2) ** -0.5 * CLIP
    towards, half = shift / deviation**2, ((shift / deviation) ** 2).sum() / 2
    silent, loud = (releases(loud, **options) @ towards > half for loud in (False, True))
    allowed = 2 * norm.cdf(0.5 / NOISE) - 1
    assert loud.mean() - silent.mean() == pytest.approx(allowed, abs=4 * np.sqrt(0.5 / DRAWS))
