"""What privacy a number of noisy steps costs, by opacus's accountants."""

from __future__ import annotations

import warnings
from functools import lru_cache
from math import inf, isfinite
from typing import Literal

import numpy as np

from fedtt_lightning.errors import ConfigError

Accountant = Literal["rdp", "prv", "gdp"]
# (noise multiplier, sampling rate, steps) of steps that were taken one after another.
History = tuple[tuple[float, float, int], ...]

_TOLERANCE = 0.01  # in ε, and of ε
_LARGEST_NOISE = 1e6
_LARGEST_PRV = 100.0  # in ε; far beyond it, PRV's grid fills the memory


@lru_cache(maxsize=65536)
def epsilon_of(history: History, delta: float, accountant: Accountant) -> float:
    """Return the ε at `delta` of Poisson-subsampled Gaussian steps, from opacus's accountants.

    0 without steps, infinity where a step has no noise. `rdp`: Rényi DP (Mironov, arXiv
    1702.07476); `prv`: privacy loss random variables, its upper bound (Gopi et al., arXiv
    2106.02848), tighter and slower, and `rdp`'s ε where that is above 100; `gdp`: the central limit
    theorem of Gaussian DP (Bu et al., arXiv 1911.11607), which may underestimate; infinity stands
    for what is above 500.

    Raises:
        ConfigError: steps of several kinds under `gdp`, of which opacus would count the last, or
            a δ too small for `prv`.
    """
    history = tuple(entry for entry in history if entry[2] > 0)
    if not history:
        return 0.0
    if any(noise == 0 for noise, _, _ in history):
        return inf
    if accountant == "gdp" and len({entry[:2] for entry in history}) > 1:
        raise ConfigError(
            "accountant gdp cannot add up steps of different noise or rates: use rdp or prv"
        )
    if accountant == "prv" and (bound := epsilon_of(history, delta, "rdp")) > _LARGEST_PRV:
        return bound
    from opacus.accountants import create_accountant  # which takes seconds

    with warnings.catch_warnings(), np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        warnings.filterwarnings("ignore", message="GDP accounting is experimental")
        warnings.filterwarnings("ignore", message="Optimal order is the")
        warnings.filterwarnings("ignore", message="divide by zero encountered in log")  # rate 1
        spent = create_accountant(accountant)
        spent.history = list(history)
        try:
            return float(spent.get_epsilon(delta))
        except ValueError as error:
            if accountant == "gdp":
                return _beyond_the_roots(*history[0], delta)
            if "small values of delta" not in str(error):
                raise
            raise ConfigError(
                f"delta {delta:g} is too small for accountant {accountant}: raise it, or use rdp"
            ) from None


def _beyond_the_roots(noise: float, rate: float, steps: int, delta: float) -> float:
    """Return what opacus's root finder, which looks from 0 to 500, cannot: an ε of 0 or more."""
    from opacus.accountants.analysis import gdp

    mu = gdp.compute_mu_poisson(steps=steps, noise_multiplier=noise, sample_rate=rate)
    return inf if gdp.delta_eps_mu(eps=0, mu=mu) > delta else 0.0  # which NaN, of μ = 0, is not


@lru_cache(maxsize=4096)
def noise_for(
    epsilon: float, delta: float, rate: float, steps: int, accountant: Accountant
) -> float:
    """Return the noise multiplier with which `steps` steps cost just about `epsilon`, never more.

    Less by at most 0.01, and by at most 1% where ε is below 1.

    Raises:
        ConfigError: none does.
    """

    def spent(noise: float) -> float:
        return epsilon_of(((noise, rate, steps),), delta, accountant)

    low, high, before = 0.0, 1.0, inf
    while not (now := spent(high)) <= epsilon:
        if high > _LARGEST_NOISE or now > 0.999 * before:  # RDP never goes below log(1/δ) / 63
            tighter = ", or use accountant prv, which tells the smallest"
            raise ConfigError(
                f"epsilon {epsilon:g} at delta {delta:g} is reached by no noise over {steps} steps "
                f"with accountant {accountant}: raise epsilon or delta"
                f"{tighter if accountant == 'rdp' else ''}"
            )
        low, high, before = high, 2 * high, now
    while epsilon - spent(high) > _TOLERANCE * min(epsilon, 1) and high - low > 1e-4 * high:
        middle = (low + high) / 2
        if spent(middle) <= epsilon:
            high = middle
        else:
            low = middle
    return high


@lru_cache(maxsize=4096)
def steps_within(
    epsilon: float, delta: float, noise: float, rate: float, accountant: Accountant, at_most: int
) -> int:
    """Return how many steps, `at_most` so many, cost no more than `epsilon`."""

    def fits(n: int) -> bool:
        return epsilon_of(((noise, rate, n),), delta, accountant) <= epsilon

    if not isfinite(epsilon) or fits(at_most):
        return at_most
    low, high = 0, at_most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
