import numpy as np
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.data.row_draws import draw_rows, take


@given(st.integers(1, 30), st.integers(0, 30))
def test_rows_without_groups_are_a_permutation_cut_in_two(size, wanted):
    drawn, rest = draw_rows(size, wanted, np.random.default_rng(3))
    order = np.random.default_rng(3).permutation(size)
    assert drawn.tolist() == order[:wanted].tolist() and rest.tolist() == order[wanted:].tolist()


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30), st.integers(0, 30))
def test_groups_are_drawn_whole(groups, wanted):
    drawn, rest = draw_rows(len(groups), wanted, np.random.default_rng(3), groups)
    assert sorted([*drawn, *rest]) == list(range(len(groups)))
    mine, others = {groups[i] for i in drawn}, {groups[i] for i in rest}
    assert not mine & others
    assert len(drawn) <= wanted or len(mine) == 1
    assert bool(len(drawn)) == bool(wanted)
    if others and len(drawn) <= wanted:  # the next group would have been too many
        assert len(drawn) + max(groups.count(name) for name in others) > wanted


def test_taken_rows_keep_their_order():
    chosen = np.array([3, 0])
    assert take([10, 11, 12, 13], chosen) == [10, 13]
    assert take(Dataset.from_dict({"a": [10, 11, 12, 13]}), chosen)["a"][:] == [10, 13]
