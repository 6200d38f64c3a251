"""Clients' messages added up elsewhere give what the rule makes of the updates themselves."""

from __future__ import annotations

import numpy as np
import pytest

from federation.aggregation.test_distributed_noise import shared
from federation.aggregation.test_robust import OLD, SCHEMA, WIDTH, flat, update
from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import SecureMean, SecureRule

ROWS = np.random.default_rng(5).uniform(-1, 1, (4, WIDTH))
WEIGHTS = [3.0, 20.0, 7.0, 1.0]


def rules() -> list[SecureRule]:
    """Return a weighted mean, and a private one with shares of noise and a clip that adapts."""
    return [SecureMean(), shared(1.3, quantile=0.5, bit_noise=2.0)]


@pytest.mark.parametrize("kind", [0, 1])
def test_apart_it_is_what_it_is_together(kind: int) -> None:
    whole, server = rules()[kind], rules()[kind]
    for round in range(2):
        for rule in (whole, server):
            rule.open(round)
        messages = []
        for client, (row, weight) in enumerate(zip(ROWS, WEIGHTS, strict=True)):
            silo = rules()[kind]
            silo.load_state_dict(server.state_dict())  # the clip of the round
            messages.append(silo.message(client, update(row), weight))
            whole.add(client, OLD, update(row), weight)
        assert all(len(message) == server.size(SCHEMA) for message in messages)
        server.take(sum(messages) % 2**server.bits, 4, SCHEMA)
        assert server.count == whole.count == 4
        np.testing.assert_array_equal(flat(server.result(OLD)), flat(whole.result(OLD)))
        metrics = whole.metrics()
        assert metrics.pop("secure/quantization_error") > 0
        assert server.metrics() == metrics


def test_more_clients_than_there_is_room_for() -> None:
    rule = SecureMean(clients=2)
    rule.open(0)
    message = rule.message(0, update(ROWS[0]), 1.0)
    with pytest.raises(FederationError, match="more than federation"):
        rule.take(3 * message, 3, SCHEMA)


def test_fewest_clients_of_a_sum() -> None:
    assert SecureMean().fewest(4) == 1
    assert shared(1.3, fewest=3).fewest(4) == 3  # on whom the noise is shared out
    assert shared(1.3, fewest=3).fewest(2) == 3
