"""A masking protocol fits the interface: the same sums bit for bit, and unreadable messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from federation.pairwise_masks import PairwiseMaskedSum
from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import ModularSum, SecureSum


def vectors(bits: int, clients: int, seed: int, size: int = 9) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 2**bits, (clients, size)))


@settings(deadline=None)
@given(bits=st.integers(8, 62), round=st.integers(0, 5), seed=st.integers(0, 99), data=st.data())
def test_sums_over_those_who_answered(
    bits: int, round: int, seed: int, data: st.DataObject
) -> None:
    clients = list(range(data.draw(st.integers(2, 6))))
    answered = data.draw(st.lists(st.sampled_from(clients), min_size=2, unique=True))
    rows = vectors(bits, len(clients), seed)
    masked, plain = PairwiseMaskedSum(clients, key=seed), ModularSum()
    expected = [0] * rows.shape[1]
    masked.open(round, bits)
    plain.open(round, bits)
    for client in answered:
        masked.add(client, rows[client])
        plain.add(client, rows[client])
        row = rows[client].tolist()
        expected = [(a + b) % 2**bits for a, b in zip(expected, row, strict=True)]
    assert masked.total().tolist() == plain.total().tolist() == expected


def test_single_messages_look_uniform() -> None:
    """A vector of zeros is sent; each of 16 ranges of the modulus is hit as often."""
    masked = PairwiseMaskedSum(range(3))
    masked.open(0, 32)
    for client in range(3):
        masked.add(client, torch.zeros(32_000, dtype=torch.int64))
    for message in masked.messages.values():
        counts = torch.bincount(message >> 28, minlength=16)
        assert chisquare(counts.numpy()).pvalue > 1e-4
    assert not masked.total().any()


def test_masks_belong_to_one_round() -> None:
    masked = PairwiseMaskedSum(range(2))
    values = torch.zeros(50, dtype=torch.int64)
    sent = []
    for round in (0, 1, 0):
        masked.open(round, 32)
        masked.add(0, values)
        sent.append(masked.messages[0])
    assert torch.equal(sent[0], sent[2])
    assert not bool((sent[0] == sent[1]).any())


@pytest.mark.parametrize("secure", [ModularSum(), PairwiseMaskedSum(range(4))])
def test_goes_on_inside_a_round(secure: SecureSum) -> None:
    rows = vectors(32, 4, 0)
    secure.open(3, 32)
    for client in (2, 0):
        secure.add(client, rows[client])
    state = secure.state_dict()
    secure.open(9, 16)
    secure.load_state_dict(state)
    secure.add(3, rows[3])
    assert torch.equal(secure.total(), (rows[0] + rows[2] + rows[3]) % 2**32)


def test_a_running_sum_holds_no_single_vector() -> None:
    rows = vectors(32, 3, 1)
    plain = ModularSum()
    plain.open(0, 32)
    for client, row in enumerate(rows):
        plain.add(client, row)
    held = [value for value in vars(plain).values() if isinstance(value, torch.Tensor)]
    assert [value.tolist() for value in held] == [(rows.sum(0) % 2**32).tolist()]


@pytest.mark.parametrize("secure", [ModularSum(), PairwiseMaskedSum(range(4))])
def test_no_sum_over_nobody(secure: SecureSum) -> None:
    secure.open(0, 32)
    with pytest.raises(FederationError, match="secure sum"):
        secure.total()
