"""Blocks of texts: every token but a text's first is predicted once, and none is lost."""

from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from byte_tokenizer import byte_tokenizer
from fedtt_lightning.data.prompts import to_lists
from fedtt_lightning.data.token_blocks import BlockBatch, block_rows, cut_blocks
from fedtt_lightning.errors import ConfigError


def blocks_of(lists, length):
    column, owners = cut_blocks(to_lists(lists), length)
    starts = column.starts.tolist()
    rows = [column.values[a:b].tolist() for a, b in pairwise(starts)]
    return rows, owners.tolist()


@given(st.lists(st.lists(st.integers(0, 90), max_size=30), max_size=6), st.integers(2, 9))
def test_each_token_is_predicted_once(lists, length):
    rows, owners = blocks_of(lists, length)
    assert owners == sorted(owners)
    assert all(2 <= len(row) <= length for row in rows)
    for number, tokens in enumerate(lists):
        mine = [row for row, owner in zip(rows, owners, strict=True) if owner == number]
        predicted = [token for row in mine for token in row[1:]]
        assert predicted == tokens[1:]
        context = [token for token in tokens[:1] for _ in mine[:1]]
        assert [row[0] for row in mine] == (context + [row[-1] for row in mine[:-1]])[: len(mine)]


def test_rows_keep_their_columns_and_what_is_left_out_is_told(caplog):
    tokenizer = byte_tokenizer(begins=False)
    rows = Dataset.from_dict({"text": ["yes " * 20, "y", "no."], "who": ["a", "b", "c"]})
    with caplog.at_level("INFO"):
        made = block_rows(tokenizer, rows, 8, keep=False)
    assert "1 of 3 texts have no second token" in caplog.text
    assert set(made["who"]) == {"a", "c"}
    assert made["who"].count("a") > 2
    whole = [
        t
        for row, who in zip(made["input_ids"], made["who"], strict=True)
        if who == "a"
        for t in row[1:]
    ]
    assert whole == tokenizer("yes " * 20)["input_ids"][1:]


def test_nothing_to_predict_is_refused():
    rows = Dataset.from_dict({"text": ["y"]})
    with pytest.raises(ConfigError, match="no text has two tokens"):
        block_rows(byte_tokenizer(begins=False), rows, 8, keep=False)


def test_kept_tokens_are_those_of_whole_texts_for_any_length(cache_home):
    rows = Dataset.from_dict({"text": ["yes or no? " * 9, "the answer is no."]})
    tokenizer = byte_tokenizer()
    for length in (7, 50):
        kept = block_rows(tokenizer, rows, length, keep=True)["input_ids"]
        assert kept == block_rows(tokenizer, rows, length, keep=False)["input_ids"]
    assert len(list(cache_home.rglob("*.safetensors"))) == 1


def test_batches_are_padded_on_the_right_and_every_token_is_a_label():
    batch = BlockBatch(9)([{"input_ids": torch.tensor([4, 9, 5])}, {"input_ids": [7, 8]}])
    assert batch["input_ids"].tolist() == [[4, 9, 5], [7, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[4, 9, 5], [7, 8, -100]]
    assert {value.dtype for value in batch.values()} == {torch.int64}
