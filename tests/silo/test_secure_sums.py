"""Secure aggregation gives the exact sum over those who sent, whoever vanishes when."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

pytest.importorskip("cryptography")
pytest.importorskip("Crypto")

from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import ModularSum
from fedtt_lightning.silo.secure_client import PURPOSE, pair_secret
from fedtt_lightning.silo.secure_crypto import SECRET, KeyPair, join_secret, mask
from fedtt_lightning.silo.secure_letters import read_integers
from silo.secure_round import STAGES, SecureRound, vectors


def check(clients: list[int], vanish: dict[int, str], bits: int = 32, fewest: int = 2) -> None:
    """Compare with the sum in the open, or see that there is none below the threshold."""
    rows = vectors(clients, bits)
    round = SecureRound(rows, vanish, bits, fewest)
    needed = max(fewest, len(round.left("keys")) // 2 + 1)
    if len(round.left("revealed")) < needed:
        with pytest.raises(FederationError, match=f"needs {needed} clients, but only"):
            round.total()
        return
    plain = ModularSum()
    plain.open(3, bits)
    for client in round.left("masked"):
        plain.add(client, torch.from_numpy(rows[client].astype(np.int64)))
    assert round.total().tolist() == plain.total().tolist()
    assert round.server.members == round.left("masked")


@pytest.mark.parametrize("clients", [[0, 1, 2], [1, 4, 6, 8]])
def test_sums_for_all_ways_to_vanish(clients: list[int]) -> None:
    for stages in product((*STAGES, ""), repeat=len(clients)):
        check(clients, {c: stage for c, stage in zip(clients, stages, strict=True) if stage})


@settings(deadline=None, max_examples=60)
@given(
    stages=st.lists(st.sampled_from(["", "", *STAGES]), min_size=3, max_size=9),
    bits=st.integers(8, 62),
    fewest=st.integers(2, 4),
)
def test_sums_of_more_clients(stages: list[str], bits: int, fewest: int) -> None:
    clients = list(range(len(stages)))
    check(
        clients, {c: stage for c, stage in zip(clients, stages, strict=True) if stage}, bits, fewest
    )


def test_a_masked_vector_looks_uniform() -> None:
    """Vectors of zeros are sent; each of 16 ranges of the modulus is hit as often."""
    round = SecureRound({client: np.zeros(32_000, dtype=np.uint64) for client in range(3)})
    assert not round.total().any()
    for answer in round.sent["masked"].values():
        assert len(answer) == 4 * 32_000
        counts = np.bincount(read_integers(answer, 32, 32_000) >> np.uint64(28), minlength=16)
        assert chisquare(counts).pvalue > 1e-4


def test_masks_are_new_in_each_round() -> None:
    rows = vectors([0, 1, 2], size=50)
    first, second = SecureRound(rows), SecureRound(rows)
    assert first.total().tolist() == second.total().tolist()
    for client in rows:
        one, other = (
            read_integers(round.sent["masked"][client], 32, 50) for round in (first, second)
        )
        assert not (one == other).any()
        assert not (one == rows[client]).any()


def test_a_vector_that_comes_late_stays_masked() -> None:
    """When it comes, the server has rebuilt the private key behind its pairwise masks."""
    rows = vectors([0, 1, 2], size=50)
    round = SecureRound(rows, {2: "masked"}).until("masked")
    late = round.clients[2].masked(round.server.mail(2), rows[2], 32)
    assert round.total().tolist() == ((rows[0] + rows[1]) % 2**32).tolist()
    shares = {client: round.sent["revealed"][client][2 * SECRET :] for client in (0, 1)}
    pair, book = KeyPair(join_secret(shares)), round.sent["keys"]
    left = read_integers(late, 32, 50)
    for other in (0, 1):
        left = left + mask(pair_secret(pair, 2, book, other, PURPOSE + b"round 3"), 50)
    assert not (left % 2**32 == rows[2]).any()
    assert ((left - mask(round.clients[2]._seed, 50)) % 2**32).tolist() == rows[2].tolist()
