"""Visits side by side: which they are, and which batches of the round are theirs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtt_lightning.federation import RoundPlan, RoundPlanner


def plan(sizes: list[int], groups: tuple[int, ...], **options: int) -> RoundPlan:
    planner = RoundPlanner(
        3, np.array(sizes), lambda size: -(-size // 2), group_sizes=groups, **options
    )
    return planner.plan(1)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    st.integers(1, 3),
)
def test_groups_follow_the_plan_and_each_batch_is_of_one(
    sizes: list[int], groups: tuple[int, ...], epochs: int
) -> None:
    together, alone = (plan(sizes, g, local_epochs=epochs) for g in (groups, (1,)))
    assert [v.client for v in together.visits] == [v.client for v in alone.visits]
    assert [v.num_batches for v in together.visits] == [v.num_batches for v in alone.visits]
    given_sizes = [*groups, *[groups[-1]] * len(sizes)]
    left = len(sizes)
    for group, size in zip(together.groups, given_sizes, strict=False):
        assert len(group) == min(size, left)
        left -= len(group)
    assert left == 0

    batch, before = 0, 0
    for group in together.groups:
        for step in range(max(visit.num_batches for visit in group)):
            assert together.group(batch) == group
            assert together.locate(batch) == (before, group[0], step)
            batch += 1
        before += len(group)
    assert batch == together.num_batches


def test_a_cap_on_batches_cuts_the_same_visits() -> None:
    together, alone = (plan([9, 9, 9, 9], groups, max_batches=12) for groups in ((3,), (1,)))
    assert [(v.client, v.num_batches) for v in together.visits] == [
        (v.client, v.num_batches) for v in alone.visits
    ]
    assert (together.num_batches, alone.num_batches) == (5, 12)
