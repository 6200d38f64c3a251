import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value

from fedtt_lightning.data.labels import read_column, read_labels
from fedtt_lightning.data.token_rows import TokenRows, list_columns

COLUMNS = {
    "input_ids": [[5, 6, 7], [], [8], [9, 9]],
    "label": [0, 1, 1, 0],
    "topic": ["film", "food", "film", "music"],
}


@pytest.mark.parametrize("cut", ["whole", "selected", "sliced"])
def test_rows_and_columns_are_those_of_the_dataset(cut):
    dataset = Dataset.from_dict(COLUMNS)
    if cut == "selected":
        dataset = dataset.select([3, 0, 2])
    elif cut == "sliced":
        dataset = dataset.select(range(1, 4))
    rows = TokenRows(dataset)
    assert len(rows) == len(dataset)
    for index in [*range(len(dataset)), -1]:
        row = {**rows[index], "input_ids": rows[index]["input_ids"].tolist()}
        assert row == dataset[index]
    assert all(rows[name] == list(dataset[name]) for name in COLUMNS)
    with pytest.raises(IndexError):
        rows[len(dataset)]


def test_partitioners_find_labels_and_columns():
    rows = TokenRows(Dataset.from_dict(COLUMNS))
    assert read_labels(rows).tolist() == COLUMNS["label"]
    assert np.array_equal(read_column(rows, "topic"), COLUMNS["topic"])


def test_lengths_and_small_integers_are_kept():
    ids = {"input_ids": List(Value("int64")), "mask": List(Value("int8")), "label": Value("int8")}
    columns = {**COLUMNS, "mask": [[1, 0, 1], [], [1], [1, 1]]}
    del columns["topic"]
    rows = TokenRows(Dataset.from_dict(columns, Features(ids)))
    assert rows.lengths.tolist() == [3, 0, 1, 2]
    assert (rows[0]["input_ids"].dtype, rows[0]["mask"].dtype) == (torch.int32, torch.int8)
    assert rows["mask"] == columns["mask"]


def test_tokens_are_columns_like_others():
    whole = Dataset.from_dict(COLUMNS)
    tokens = list_columns(whole.select_columns("input_ids").with_format("arrow")[:])
    rows = TokenRows(whole.remove_columns("input_ids"), tokens)
    assert sorted(rows.column_names) == sorted(COLUMNS)
    assert all(rows[name] == list(whole[name]) for name in COLUMNS)


@pytest.mark.parametrize("kind", [TokenRows, Dataset.from_dict])
def test_labels_of_tokens_are_no_classes(kind):
    columns = {"labels": [[5, 6, 7], [-100], []], "where": ["a", "b", "c"]}
    rows = kind(Dataset.from_dict(columns) if kind is TokenRows else columns)
    assert read_labels(rows) is None
