"""The largest values arrive where they belong, in hardly more bits than there must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln

from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import AdapterState, TopK
from fedtt_lightning.federation.aggregation.flat import flatten
from random_updates import an_update, updates


@given(updates(), st.floats(1e-3, 1.0))
def test_sends_the_largest(update: AdapterState, fraction: float) -> None:
    codec = TopK(fraction)
    values = flatten(update).numpy()
    read = flatten(codec.decode(codec.encode(update, 0))).numpy()
    kept = max(1, round(fraction * len(values))) if len(values) else 0
    order = np.argsort(-np.abs(values))
    expected = np.zeros_like(values)
    halves = np.clip(values, -65504, 65504).astype(np.float32).astype(np.float16)
    expected[order[:kept]] = halves[order[:kept]]
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("where", ["anywhere", "first", "last"])
def test_positions_take_few_bits(fraction: float, where: str) -> None:
    """At most 0.6 bits a position above log2 of the number of choices, wherever they lie."""
    n, k = 100_000, round(100_000 * fraction)
    places = {"anywhere": np.random.default_rng(0).permutation(n)[:k], "first": np.arange(k)}
    places["last"] = n - 1 - places["first"]
    values = np.zeros(n)
    values[places[where]] = 1 + np.arange(k) % 7
    codec = TopK(fraction)
    message = codec.encode(an_update(*values), 0)
    assert torch.equal(codec.decode(message).buffers["float32"], torch.from_numpy(values))
    least = (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(2)
    assert least < 8 * message.buffers["positions"].numel() < least + 0.6 * k + 8


@given(st.binary(min_size=3, max_size=3))
def test_refuses_positions_that_cannot_be(bits: bytes) -> None:
    """Any bits are read as so many positions of this schema, or refused."""
    codec = TopK(0.2)
    message = codec.encode(an_update(*range(1, 22)), 0)
    assert message.buffers["positions"].shape == (3,)
    message.buffers["positions"] = torch.tensor(list(bits), dtype=torch.uint8)
    try:
        read = codec.decode(message).buffers["float32"]
    except FederationError:
        return
    assert (read != 0).sum() == 4


def test_tells_wrong_positions() -> None:
    codec = TopK(0.2)
    message = codec.encode(an_update(*range(1, 22)), 0)
    message.buffers["positions"].zero_()
    with pytest.raises(FederationError, match="does not hold the positions of 4 of 21 values"):
        codec.decode(message)
