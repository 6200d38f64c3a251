"""Visits are shared out on lanes evenly, and the same way everywhere."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from fedtt_lightning.federation import Visit
from fedtt_lightning.federation.lanes import lanes_of, visit_costs


def test_the_longest_go_first_each_to_where_least_is_to_do() -> None:
    assert lanes_of([1, 5, 3, 4, 1], 2) == [0, 0, 1, 1, 0]  # 5 + 1 + 1 and 4 + 3
    assert lanes_of([2, 2, 2], 3) == [0, 1, 2]
    assert lanes_of([1, 7], 4) == [1, 0], "lanes without a visit, but never the first"
    assert lanes_of([], 2) == []


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_no_lane_takes_much_longer_than_the_best_division_does(costs: list[int], n: int) -> None:
    def longest(lanes: tuple[int, ...] | list[int]) -> int:
        return max(sum(c for c, at in zip(costs, lanes, strict=True) if at == k) for k in range(n))

    best = min(longest(lanes) for lanes in product(range(n), repeat=len(costs)))
    found = lanes_of(costs, n)
    assert longest(found) <= (4 / 3 - 1 / (3 * n)) * best + 1e-9
    assert found[costs.index(max(costs))] == 0


def test_costs_are_measured_seconds_or_else_the_mean_pace() -> None:
    visits = [Visit(0, client, 0, 10, batches, batches, 0) for client, batches in ((3, 4), (7, 6))]
    assert visit_costs(visits, {}) == [4, 6]
    assert visit_costs(visits, {7: 0.5}) == [2, 3]
    assert visit_costs(visits, {7: 0.5, 1: 1.5}) == [4, 3]
