"""Layouts of prompts in batches: what they hold is what they were given, each once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.data.prompt_collate import (
    PackAnswers,
    PadAnswers,
    PadForEvaluation,
    first_fit,
)

PAD = 9
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def example(size: int, seed: int, answer: int = 1):
    ids = torch.randint(0, 100, (size,), generator=torch.Generator().manual_seed(seed)).int()
    labels = ids.clone()
    labels[: size - answer] = -100
    return {"input_ids": ids, "labels": labels, "label": seed}


def examples(sizes):
    return [example(size, seed, 1 + seed % size) for seed, size in enumerate(sizes)]


@given(SIZES)
def test_padding_adds_only_padding(sizes):
    rows = examples(sizes)
    batch = PadAnswers(PAD)(rows)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    for index, row in enumerate(rows):
        size = sizes[index]
        assert batch["input_ids"][index, :size].tolist() == row["input_ids"].tolist()
        assert batch["labels"][index, :size].tolist() == row["labels"].tolist()
        assert (batch["input_ids"][index, size:] == PAD).all()
        assert (batch["labels"][index, size:] == -100).all()
        assert batch["attention_mask"][index].tolist() == [1] * size + [0] * (max(sizes) - size)
    assert all(value.dtype == torch.int64 for value in batch.values())


@given(SIZES)
def test_packing_holds_each_example_once_and_its_positions_restart(sizes):
    rows = examples(sizes)
    batch = PackAnswers(PAD)(rows)
    assert set(batch) == {"input_ids", "labels", "position_ids", "segments"}
    assert all(value.dtype == torch.int64 for value in batch.values())
    count, width = batch["input_ids"].shape
    assert count <= len(rows) and width == max(sizes)
    found = []
    for row in range(count):
        segments = batch["segments"][row]
        last = int(segments.max())
        assert segments[segments > 0].tolist() == sorted(segments[segments > 0].tolist())
        for segment in range(1, last + 1):
            places = (segments == segment).nonzero().flatten()
            assert batch["position_ids"][row, places].tolist() == list(range(len(places)))
            labels = batch["labels"][row, places].tolist()
            assert labels[0] == -100  # the token before is another example's
            found.append((batch["input_ids"][row, places].tolist(), labels[1:]))
        padding = segments == 0
        assert (batch["input_ids"][row, padding] == PAD).all()
        assert (batch["labels"][row, padding] == -100).all()
    expected = [(row["input_ids"].tolist(), row["labels"].tolist()[1:]) for row in rows]
    assert sorted(found) == sorted(expected)


@given(SIZES)
def test_rows_are_filled_before_new_ones_begin(sizes):
    rows = first_fit(sizes)
    assert sorted(index for row in rows for index in row) == list(range(len(sizes)))
    filled = [sum(sizes[index] for index in row) for row in rows]
    assert max(filled) <= max(sizes)
    assert all(
        a + min(sizes[i] for i in rows[k + 1]) > max(sizes) for k, a in enumerate(filled[:-1])
    )


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=5))
def test_candidates_keep_their_owner_and_number(groups):
    given_examples = [
        {
            "candidates": [example(size, 10 * owner + number) for number, size in enumerate(sizes)],
            "answers": [f"{owner} {number}" for number in range(len(sizes))],
            "label": owner - 1,
            "group": f"g{owner // 2}",
        }
        for owner, sizes in enumerate(groups)
    ]
    batch = PadForEvaluation(PAD)(given_examples)
    assert len(batch["owner"]) == len(batch["candidate"]) == sum(map(len, groups))
    for row, (owner, number) in enumerate(
        zip(batch["owner"].tolist(), batch["candidate"].tolist(), strict=True)
    ):
        mine = given_examples[owner]["candidates"][number]
        attended = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row, attended].tolist() == mine["input_ids"].tolist()
        assert batch["labels"][row, attended].tolist() == mine["labels"].tolist()
        assert batch["answers"][owner][number] == f"{owner} {number}"
    pairs = list(zip(batch["owner"].tolist(), batch["candidate"].tolist(), strict=True))
    assert pairs == [(i, k) for i, sizes in enumerate(groups) for k in range(len(sizes))]
    assert batch["label"].tolist() == list(range(-1, len(groups) - 1))
    assert batch["group"] == [f"g{owner // 2}" for owner in range(len(groups))]
    assert "gold" not in batch and batch["label"].dtype == torch.int64


def test_prompts_to_go_on_from_end_at_the_right():
    rows = [
        {"input_ids": torch.tensor([5, 6, 7]).int(), "references": ["a"]},
        {"input_ids": torch.tensor([8]).int(), "references": ["b", "c"]},
    ]
    batch = PadForEvaluation(PAD)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [PAD, PAD, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["references"] == [["a"], ["b", "c"]]


@pytest.mark.parametrize("sizes", [[3], [2, 5]])
def test_other_rows_are_evaluated_as_they_are_trained(sizes):
    rows = examples(sizes)
    batch, trained = PadForEvaluation(PAD)(rows), PadAnswers(PAD)(rows)
    assert batch.keys() == trained.keys()
    assert all(torch.equal(batch[name], trained[name]) for name in batch)
