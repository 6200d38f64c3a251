"""The number of clients side by side: the one whose examples take the least time, if it fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedtt_lightning.cohort import size_search
from fedtt_lightning.cohort.size_search import SizeSearch

CPU = torch.device("cpu")


class Clock:
    """Stands still unless it is told otherwise."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(size_search, "time", clock)
    return clock


def search(
    time: Clock, cost: dict[int, float], largest: int, rounds: int = 8, clients: int = 99
) -> SizeSearch:
    """Search where a step of n clients with 2 examples each takes cost[n] milliseconds."""
    found = SizeSearch(largest, CPU)
    for _ in range(rounds):
        for step in range(4):
            size = min(found.size, clients)
            with found.step(size, 2 * size):
                time.sleep((cost[size] + (20 if step == 0 else 0)) / 1e3)
        found.end_round()
    return found


def test_finds_the_fastest(time: Clock) -> None:
    found = search(time, {1: 4, 2: 5, 4: 6, 8: 24, 16: 48}, largest=64)
    assert (found.found, found.size) == (True, 4)
    assert list(found.seconds) == [1, 2, 4, 8]
    assert found.seconds[2] == pytest.approx(5e-3 / 4)


def test_ends_with_the_largest_cohort(time: Clock) -> None:
    cost = {1: 4.0, 2: 4.0, 4: 4.0, 8: 4.0}
    assert search(time, cost, largest=7).size == 4
    assert search(time, cost, largest=1).size == 1
    assert search(time, cost, largest=64, clients=4).size == 4, "no round has more clients than 4"


def test_one_at_a_time_where_that_is_fastest(time: Clock) -> None:
    found = search(time, {1: 2, 2: 9, 4: 40}, largest=64)
    assert (found.size, list(found.seconds)) == (1, [1, 2])


def test_activations_must_fit(monkeypatch: pytest.MonkeyPatch, time: Clock) -> None:
    weight = torch.nn.Parameter(torch.randn(100, 100))
    monkeypatch.setattr(size_search, "_free_memory", lambda device: 8 * 3 * 40_000)
    found = SizeSearch(64, CPU)
    sizes = []
    for _ in range(6):
        for _ in range(3):
            with found.step(found.size, found.size):
                x = torch.randn(100, 100, requires_grad=True)
                (x @ weight).exp().sin().sum().backward()  # keeps x, exp and its result: 3 * 40,000
                time.sleep(1e-3)
        sizes.append(found.size)
        found.end_round()
    assert sizes[:3] == [1, 2, 4] and found.size <= 4, "half of the memory is for four of them"


def test_goes_on_from_a_checkpoint(time: Clock) -> None:
    first = SizeSearch(8, CPU)
    with first.step(1, 2):
        time.sleep(4e-3)
    first.end_round()
    second = SizeSearch(8, CPU)
    state: Any = first.state_dict()
    second.load_state_dict(state)
    assert (second.size, second.found, second.seconds) == (2, False, first.seconds)


def test_a_round_without_training_says_nothing() -> None:
    found = SizeSearch(8, CPU)
    found.end_round()
    assert (found.size, found.found) == (1, False)
