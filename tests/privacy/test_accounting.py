"""ε is that of opacus, agrees with Google's accountants, and noise and steps are found from it."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import create_accountant

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.privacy.accounting import Accountant, epsilon_of, noise_for, steps_within
from fedtt_lightning.privacy.ledger import PrivacyLedger

pytestmark = [
    pytest.mark.filterwarnings("error:.*divide by zero"),
    pytest.mark.filterwarnings("ignore:GDP accounting"),
    pytest.mark.filterwarnings("ignore:Optimal order"),
]
ACCOUNTANTS: list[Accountant] = ["rdp", "prv", "gdp"]

# (noise, rate, steps, δ), and the ε of dp-accounting 0.6.0: its RDP, and its PLD, which is tight.
GOOGLE = [
    ((1.0, 1 / 16, 200, 1e-5), 6.746575449399573, 6.027912833024999),
    ((0.7, 1 / 50, 1000, 1e-5), 10.250777277364568, 9.079125129237102),
    ((2.0, 0.25, 60, 1e-4), 4.681225765404273, 4.191970315299326),
    ((1.5, 1.0, 10, 1e-5), 11.440860686744493, 10.669522834696647),
    ((4.0, 0.01, 5000, 1e-6), 0.8089883570656725, 0.7486739147027035),
]


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.filterwarnings("ignore:.*divide by zero")
def test_equals_opacus_step_by_step(accountant: Accountant) -> None:
    direct = create_accountant(accountant)
    for _ in range(40):
        direct.step(noise_multiplier=1.1, sample_rate=0.125)
    assert epsilon_of(((1.1, 0.125, 40),), 1e-5, accountant) == direct.get_epsilon(1e-5)


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.filterwarnings("ignore:.*divide by zero")
def test_steps_of_several_kinds_compose(accountant: Accountant) -> None:
    direct = create_accountant(accountant)
    for noise, rate, steps in ((1.0, 0.1, 10), (2.0, 0.2, 20)):
        for _ in range(steps):
            direct.step(noise_multiplier=noise, sample_rate=rate)
    history = ((1.0, 0.1, 10), (2.0, 0.2, 20), (9.0, 0.5, 0))
    assert epsilon_of(history, 1e-5, accountant) == direct.get_epsilon(1e-5)


def test_gdp_refuses_what_it_would_count_in_part() -> None:
    with pytest.raises(ConfigError, match=r"gdp cannot add up .* use rdp or prv"):
        epsilon_of(((1.0, 0.1, 10), (2.0, 0.1, 10)), 1e-5, "gdp")


@pytest.mark.parametrize(("setting", "rdp", "pld"), GOOGLE)
def test_agrees_with_google(setting: Any, rdp: float, pld: float) -> None:
    """RDP differs in its orders only; PRV is an upper bound on the tight ε, at most 0.02 above."""
    noise, rate, steps, delta = setting
    assert epsilon_of(((noise, rate, steps),), delta, "rdp") == pytest.approx(rdp, rel=5e-3)
    assert pld <= epsilon_of(((noise, rate, steps),), delta, "prv") <= pld + 0.02


def test_google_still_says_so() -> None:
    """Runs where dp-accounting is, which cannot be installed beside this project's attrs."""
    accounting = pytest.importorskip("dp_accounting")
    for (noise, rate, steps, delta), rdp, pld in GOOGLE:
        step = accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(noise))
        for accountant, expected in (
            (accounting.rdp.RdpAccountant(), rdp),
            (accounting.pld.PLDAccountant(), pld),
        ):
            accountant.compose(accounting.SelfComposedDpEvent(step, steps))
            assert accountant.get_epsilon(delta) == pytest.approx(expected, rel=1e-9)


def test_the_ends_of_the_scale() -> None:
    for accountant in ACCOUNTANTS:
        assert epsilon_of((), 1e-5, accountant) == 0
        assert epsilon_of(((1.0, 0.5, 0),), 1e-5, accountant) == 0
        assert epsilon_of(((0.0, 0.5, 1),), 1e-5, accountant) == inf
    assert epsilon_of(((1e6, 0.5, 1),), 1e-5, "gdp") == 0
    assert epsilon_of(((1e9, 0.5, 1),), 1e-5, "gdp") == 0  # for which opacus divides 0 by 0
    assert epsilon_of(((0.01, 0.5, 1),), 1e-5, "gdp") == inf
    tiny = ((0.001, 0.5, 1),)  # with which opacus's PRV asks for more memory than there is
    assert epsilon_of(tiny, 1e-5, "prv") == epsilon_of(tiny, 1e-5, "rdp") > 1e5


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"), [(0.3, 1 / 30, 90), (1.0, 0.25, 20), (6.0, 1.0, 10)]
)
def test_noise_is_the_least_that_does(
    accountant: Accountant, epsilon: float, rate: float, steps: int
) -> None:
    noise = noise_for(epsilon, 1e-5, rate, steps, accountant)
    spent = epsilon_of(((noise, rate, steps),), 1e-5, accountant)
    assert epsilon - 0.01 * min(epsilon, 1) <= spent <= epsilon
    assert epsilon_of(((0.97 * noise, rate, steps),), 1e-5, accountant) > epsilon


def test_noise_is_monotonic() -> None:
    def ordered(noises: list[float]) -> bool:
        return all(a < b for a, b in pairwise(noises))

    assert ordered([noise_for(e, 1e-5, 1.0, 20, "rdp") for e in (8, 4, 2, 1, 0.5)])
    assert ordered([noise_for(2, d, 1.0, 20, "rdp") for d in (1e-3, 1e-4, 1e-5, 1e-6)])
    assert ordered([noise_for(2, 1e-5, 1.0, n, "rdp") for n in (5, 20, 100, 500)])
    assert ordered([noise_for(2, 1e-5, q, 20, "gdp") for q in (0.02, 0.1, 0.5, 1.0)])


def test_an_epsilon_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"epsilon 0.05 at delta 1e-05 is reached by no noise"):
        noise_for(0.05, 1e-5, 0.1, 10, "rdp")


def test_a_delta_below_rounding_errors_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"delta 1e-16 is too small for .* prv: .* or use rdp"):
        epsilon_of(((1.0, 0.1, 10),), 1e-16, "prv")


@settings(deadline=None, max_examples=30)
@given(
    st.floats(0.6, 4.0),
    st.sampled_from([0.05, 0.2, 0.5, 1.0]),
    st.integers(1, 300),
    st.floats(0.2, 20.0),
)
def test_steps_within_is_the_last_that_fits(
    noise: float, rate: float, at_most: int, epsilon: float
) -> None:
    steps = steps_within(epsilon, 1e-5, noise, rate, "gdp", at_most)  # the fastest accountant
    assert 0 <= steps <= at_most
    assert epsilon_of(((noise, rate, steps),), 1e-5, "gdp") <= epsilon
    if steps < at_most:
        assert epsilon_of(((noise, rate, steps + 1),), 1e-5, "gdp") > epsilon


def test_a_budget_without_limit_affords_everything() -> None:
    assert steps_within(inf, 1e-5, 0.0, 1.0, "rdp", 7) == 7
    assert steps_within(5.0, 1e-5, 0.0, 1.0, "rdp", 7) == 0


def test_ledger_counts_each_client_by_itself() -> None:
    ledger = PrivacyLedger(1e-5, "rdp")
    assert (ledger.largest(), ledger.mean(), ledger.epsilon(3)) == (0, 0, 0)
    for _ in range(3):
        ledger.add(3, 1.0, 0.25)
    ledger.add(3, 1.0, 0.5, steps=2)
    ledger.add(3, 1.0, 0.25)
    ledger.add(7, 2.0, 1.0)
    assert ledger.history(3) == ((1.0, 0.25, 3), (1.0, 0.5, 2), (1.0, 0.25, 1))
    assert ledger.history(7) == ((2.0, 1.0, 1),)
    spent = [epsilon_of(ledger.history(client), 1e-5, "rdp") for client in (3, 7)]
    assert ledger.largest() == max(spent) and ledger.mean() == sum(spent) / 2


def test_ledger_goes_on_from_its_state(tmp_path: Any) -> None:
    """Also after a checkpoint, which knows plain numbers and lists only."""
    import torch

    ledger = PrivacyLedger(1e-5, "prv")
    ledger.add(3, 1.1, 1 / 3, steps=5)
    ledger.add(3, 0.9, 1 / 3)
    ledger.add(70_000, 1.1, 0.125)
    torch.save(ledger.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    again = PrivacyLedger(1e-5, "prv")
    again.load_state_dict(state)
    assert again.state_dict() == ledger.state_dict()
    ledger.add(3, 0.9, 1 / 3)
    again.add(3, 0.9, 1 / 3)
    assert [again.history(c) for c in (3, 70_000)] == [ledger.history(c) for c in (3, 70_000)]
    assert again.largest() == ledger.largest()
