"""Errors of 16 bits and of 8, and that stochastic rounding has no bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy import stats

from fedtt_lightning.federation import (
    AdapterState,
    BFloat16,
    Float16,
    Int8,
    UploadCodec,
    seed_for,
)
from random_updates import an_update, updates


@pytest.mark.parametrize(
    ("codec", "relative", "absolute"),
    [(Float16(), 2.0**-11, 2.0**-25), (BFloat16(), 2.0**-8, 0.0)],
    ids=["Float16", "BFloat16"],
)
@given(update=updates())
def test_error_of_16_bits(
    codec: UploadCodec, relative: float, absolute: float, update: AdapterState
) -> None:
    read = codec.decode(codec.encode(update, 0))
    for dtype, buffer in update.buffers.items():
        # float64 may be rounded to float32 first, which can turn a tie.
        bound = torch.clamp(buffer.abs() * relative, min=absolute) * (1 + 1e-4)
        assert (read.buffers[dtype] - buffer).abs().le(bound).all()


@given(update=updates())
def test_error_of_int8_is_below_one_step(update: AdapterState) -> None:
    read = Int8().decode(Int8().encode(update, 5)).tensors()
    for name, tensor in update.tensors().items():
        if tensor.numel():
            step = float(tensor.abs().max()) / 127
            assert (read[name] - tensor).abs().max() <= step * (1 + 1e-6)


def test_steps_are_exact() -> None:
    """Values on the steps are not rounded, and the largest is one of them."""
    values = [step * 0.5 for step in range(-127, 128)]
    update = an_update(*values)
    for key in range(20):
        assert Int8().decode(Int8().encode(update, key)).buffers["float32"].tolist() == values


def draws(update: AdapterState, number: int) -> np.ndarray:
    """What is read of an update in so many rounds, (number, values), keyed as in a run."""
    keys = [seed_for(0, "upload", round, 3) for round in range(number)]
    read = [Int8().decode(Int8().encode(update, key)) for key in keys]
    return np.stack([one.buffers["float32"].numpy() for one in read])


def test_stochastic_rounding_is_unbiased() -> None:
    """Each mean lies where chance puts it; all of them together as a chi-square says."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=200) * 1e-3, [3e-3, -3.1e-3, 1e-9, 0.0]])
    number = 4000
    found = draws(an_update(*values), number)
    step = np.abs(values).max() / 127
    share = values / step - np.floor(values / step)  # of draws that are rounded up
    deviation = step * np.sqrt(share * (1 - share) / number)
    often = number * share * (1 - share) > 25  # where the normal distribution is near enough
    z = (found.mean(0) - values)[often] / deviation[often]
    assert often.sum() > 150
    assert np.abs(z).max() < stats.norm.isf(1e-4 / often.sum())
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], often.sum())
    assert low < (z**2).sum() < high
    # Rounding to nearest, which sends nothing below half a step, fails this.
    nearest = np.round(values / step) * step
    assert np.abs((nearest - values)[often] / deviation[often]).max() > 20
    assert (found[:, values == 0] == 0).all()


def test_only_the_neighbouring_steps_are_drawn_and_independently() -> None:
    values = np.full(300, 0.3)
    values[0] = 127.0
    found = draws(an_update(*values), 500)[:, 1:]
    assert set(np.unique(found)) == {0.0, 1.0}
    ups = found.sum(0)  # binomial over rounds, in each place
    assert 0.5 < ups.var(ddof=1) / (500 * 0.3 * 0.7) < 1.6
    ups = found.sum(1)  # and over places, in each round
    assert 0.5 < ups.var(ddof=1) / (299 * 0.3 * 0.7) < 1.6


def test_each_tensor_has_a_scale_of_its_own() -> None:
    tensors = {"large": torch.full((3,), 100.0), "small": torch.tensor([1e-6, -5e-7])}
    state = AdapterState.capture(tensors)
    update = AdapterState(state.schema, {"float32": state.buffers["float32"].double()})
    read = Int8().decode(Int8().encode(update, 0)).tensors()["small"]
    assert torch.allclose(read, tensors["small"].double(), rtol=0, atol=1e-8)
