"""Dropout of several clients in one pass is what each would draw alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedtt_lightning.cohort.random import ClientRandom
from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation.seeds import drawn_since, seed_all

SEEDS = [5, 6, 7]


def attention(x: Tensor) -> Tensor:
    heads = x.unflatten(-1, (2, -1)).transpose(1, 2)
    mask = torch.ones(len(x), 1, x.shape[1], x.shape[1], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(heads, heads, heads, mask, dropout_p=0.4)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.4),
    "module": torch.nn.Dropout(0.3),
    "in place": lambda x: F.dropout(x * 1, 0.4, inplace=True),
    "aten": lambda x: torch.dropout(x, 0.4, True),
    "two": lambda x: F.dropout(F.alpha_dropout(x, 0.2, training=True), 0.4),
    "channels": lambda x: F.dropout1d(x, 0.5),
    "heads in the batch": lambda x: F.dropout(x.reshape(-1, x.shape[-1]), 0.4),
    "shared by examples": lambda x: x + F.dropout(torch.ones(1, *x.shape[1:]), 0.4),
    "attention": attention,
}


@pytest.mark.parametrize("sizes", [[2, 2, 2], [1, 3, 2]], ids=["even", "ragged"])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_equals_each_client_alone(function: Callable[[Tensor], Tensor], sizes: list[int]) -> None:
    x = torch.randn(sum(sizes), 5, 8, generator=torch.Generator().manual_seed(0))
    random = ClientRandom(x.device)
    seed_all(1)
    random.begin(SEEDS, sizes)
    with random:
        first, second = function(x), function(x)
    assert random.used and not drawn_since(1)
    parts = []
    for seed, part in zip(SEEDS, x.split(sizes), strict=True):
        seed_all(seed)
        parts.append((function(part), function(part)))
    for together, alone in zip((first, second), zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(together, torch.cat(alone))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_off(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(6, 5, 8)
    random = ClientRandom(x.device)
    random.begin(SEEDS, [2, 2, 2])
    random.off = True
    seed_all(1)
    with random:
        assert torch.equal(function(x), function(x))
    assert random.used and not drawn_since(1)


def test_what_drops_nothing_is_left_alone() -> None:
    x = torch.randn(4, 5)
    random = ClientRandom(x.device)
    random.begin(SEEDS, [1, 1, 2])
    with random:
        assert torch.equal(F.dropout(x, 0.0), x) and torch.equal(F.dropout(x, 0.5, False), x)
    assert not random.used


def test_inside_a_client_everything_is_drawn_by_it() -> None:
    x = torch.ones(4, 5)
    random = ClientRandom(x.device)
    random.begin(SEEDS, [2, 1, 1])
    with random, random.client(1):
        drawn = F.dropout(x, 0.5) + torch.rand(4, 5)
    seed_all(SEEDS[1])
    assert torch.equal(drawn, F.dropout(x, 0.5) + torch.rand(4, 5))


def test_refuses_dropout_of_anything_else() -> None:
    random = ClientRandom(torch.device("cpu"))
    random.begin(SEEDS, [2, 2, 2])
    with random, pytest.raises(FederationError):
        F.dropout(torch.ones(5, 2), 0.5)


@pytest.mark.parametrize("draw", ["random.random()", "numpy.random.rand()", "torch.rand(1)"])
def test_tells_that_something_was_drawn(draw: str) -> None:
    seed_all(3)
    assert not drawn_since(3)
    seed_all(3)
    exec(f"import numpy, random, torch; {draw}")
    assert drawn_since(3)
