"""Mode sizes: published ones, the rule for all others, and what bad sizes are answered with."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.tensor_train import TTShape
from fedtt_lightning.tensor_train.shape import balanced_factors


@pytest.mark.parametrize(
    ("size", "in_modes", "out_modes"),
    [
        ((768, 64), (8, 8, 12), (8, 8)),
        ((64, 768), (8, 8), (12, 8, 8)),
        ((4096, 64), (16, 16, 16), (4, 4, 4)),
        ((64, 4096), (4, 4, 4), (16, 16, 16)),
        ((5120, 64), (5, 8, 8, 16), (8, 8)),
        ((64, 5120), (8, 8), (16, 8, 8, 5)),
        ((1024, 64), (4, 16, 4, 4), (4, 4, 4)),
        ((64, 1024), (4, 4, 4), (4, 4, 16, 4)),
        ((768, 768), (8, 8, 12), (12, 8, 8)),
    ],
)
def test_published_sizes(size, in_modes, out_modes):
    assert TTShape.choose(*size) == TTShape(in_modes, out_modes)


@pytest.mark.parametrize(
    ("size", "published"),
    [
        ((768, 64), [8, 8, 12, 8, 8]),
        ((4096, 64), [16, 16, 16, 4, 4, 4]),
        ((64, 4096), [4, 4, 4, 16, 16, 16]),
        ((1024, 64), [4, 8, 8, 8, 8, 4]),
        ((5120, 64), [5, 8, 8, 16, 8, 8]),
    ],
)
@pytest.mark.parametrize("rank", [1, 2, 5, 8, 20])
def test_counts_equal_those_of_the_published_flat_list(size, published, rank):
    bonds = [1, *[rank] * (len(published) - 1), 1]
    count = sum(bonds[i] * mode * bonds[i + 1] for i, mode in enumerate(published))
    assert TTShape.choose(*size).num_parameters(rank) == count


@given(st.integers(1, 3000), st.integers(1, 300))
def test_choice_covers_every_size(in_features, out_features):
    shape = TTShape.choose(in_features, out_features)
    assert (shape.in_features, shape.out_features) == (in_features, out_features)
    assert shape == TTShape.from_modes(in_features, out_features, shape.modes)


@given(st.integers(2, 600))
def test_factors_have_the_least_sum(n):
    factors = balanced_factors(n)
    assert math.prod(factors) == n and list(factors) == sorted(factors)

    def sums(rest, count):
        if count == 1:
            return [rest]
        return [f + s for f in range(2, rest) if rest % f == 0 for s in sums(rest // f, count - 1)]

    assert sum(factors) == min(sums(n, len(factors)))


@pytest.mark.parametrize(
    ("modes", "fragments"),
    [
        ([4, 8, 8, 8, 8, 4], ["up_modes", "do not split", "[4, 16, 4, 4, 4, 4, 4]"]),
        ([8, 8, 12, 8, 8], ["multiply to 49152", "65536", "[4, 16, 4, 4, 4, 4, 4]"]),
        ([1024, -64], ["-64", "positive"]),
    ],
)
def test_sizes_that_do_not_fit_name_some_that_do(modes, fragments):
    with pytest.raises(ConfigError) as error:
        TTShape.from_modes(1024, 64, modes, key="up_modes")
    assert all(fragment in str(error.value) for fragment in fragments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rank", [0, -1, 65, True, 2.0])
def test_ranks_that_do_not_fit_name_the_largest(rank):
    with pytest.raises(ConfigError, match="largest 64"):
        TTShape.choose(768, 64).core_shapes(rank)


@pytest.mark.parametrize("modes", [((), (2,)), ((2,), ()), ((0,), (2,)), ((2,), (2.5,))])
def test_modes_must_be_positive_integers(modes):
    with pytest.raises(ConfigError):
        TTShape(*modes)
