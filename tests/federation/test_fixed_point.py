"""Fixed-point numbers: sums come back to within the rounding, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import FixedPointCodec, ModularSum

KEY = "federation.aggregation.range"


@settings(deadline=None)
@given(
    bits=st.integers(12, 62),
    limit=st.floats(1e-6, 1e6),
    clients=st.integers(1, 40),
    spare=st.integers(0, 10),
    seed=st.integers(0, 999),
)
def test_sums_come_back(bits: int, limit: float, clients: int, spare: int, seed: int) -> None:
    """Modulo 2^bits, of as many clients as may come or fewer, the largest values among them."""
    rng = torch.Generator().manual_seed(seed)
    rows = (torch.rand(clients, 7, generator=rng, dtype=torch.float64) * 2 - 1) * limit
    rows[:, 0], rows[:, 1] = limit, -limit
    grid = FixedPointCodec(bits).grid(limit, clients + spare, KEY)
    secure = ModularSum()
    secure.open(0, bits)
    for client, row in enumerate(rows):
        code = grid.encode(row)
        assert code.dtype == torch.int64 and code.min() >= 0 and int(code.max()) < 2**bits
        secure.add(client, code)
    error = (grid.decode(secure.total()) - rows.sum(0)).abs().max()
    float_error = 1e-12 * clients * limit  # of float64, where the grid is finer than it
    assert error <= clients * grid.resolution / 2 + float_error


@settings(deadline=None)
@given(bits=st.integers(8, 62), clients=st.integers(1, 100))
def test_no_sum_of_the_largest_values_overflows(bits: int, clients: int) -> None:
    grid = FixedPointCodec(bits).grid(1.0, clients, KEY)
    assert clients * grid.steps < 2 ** (bits - 1)
    assert clients * (grid.steps + 1) >= 2 ** (bits - 1)  # and none finer would do
    for sign in (1.0, -1.0):
        code = grid.encode(torch.tensor([sign], dtype=torch.float64))
        total = code * 0
        for _ in range(clients):
            total = (total + code) % 2**bits
        assert float(grid.decode(total)) == pytest.approx(sign * clients)


@pytest.mark.parametrize("value", [1.0001, -2.5, float("inf"), float("nan")])
def test_a_value_out_of_range_is_refused(value: float) -> None:
    grid = FixedPointCodec().grid(1.0, 3, KEY)
    values = torch.tensor([0.5, value], dtype=torch.float64)
    with pytest.raises(FederationError, match=rf"a value of .* exceeds the range ±1 .*raise {KEY}"):
        grid.encode(values)


def test_a_sum_with_masks_left_in_it_is_refused() -> None:
    grid = FixedPointCodec(16).grid(1.0, 3, KEY)
    with pytest.raises(FederationError, match="more than 3 clients can send: masks are left"):
        grid.decode(torch.tensor([2**15], dtype=torch.int64))


@pytest.mark.parametrize(
    ("bits", "clients", "message"),
    [
        (7, 2, "codec.bits is 7, but must lie between 8 and 62"),
        (63, 2, "codec.bits is 63"),
        (8, 128, "codec.bits=8 has no room for a sum over 128 clients: raise it"),
    ],
)
def test_refuses_moduli_that_cannot_work(bits: int, clients: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FixedPointCodec(bits).grid(1.0, clients, KEY)
