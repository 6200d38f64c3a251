"""Tokens are made once, read from then on by memory map, and never trusted unseen."""

import multiprocessing
import stat
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from fedtt_lightning.data import LabelledText
from fedtt_lightning.data.builtin_backbone import make_tokenizer
from fedtt_lightning.data.builtin_text import generate_reviews
from fedtt_lightning.data.text_data import load_tokenizer
from fedtt_lightning.data.token_cache import cache_key, cached_tokens
from fedtt_lightning.data.token_rows import Lists, list_columns

TEXTS = {"text": ["the soup was bland", "", "it"], "text_pair": ["a b", "c", "of the"]}
COLUMNS = {"input_ids": [[5, 6, 300], [], [8]], "attention_mask": [[1, 1, 1], [], [1]]}


def columns():
    return list_columns(Dataset.from_dict(COLUMNS).with_format("arrow")[:])


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[name].values, expected[name].values)
        and found[name].values.dtype == expected[name].values.dtype
        and torch.equal(found[name].starts, expected[name].starts)
        for name in expected
    )


def never():
    raise AssertionError("made again")


def the_file(home):
    (file,) = (home / "fedtt-lightning" / "tokens").iterdir()
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("lines")
    rows = generate_reviews(60, 2, "train")
    lines = zip(rows["label"], rows["text"], strict=True)
    (root / "train.txt").write_text("".join(f"{label} {text}\n" for label, text in lines))
    make_tokenizer().save_pretrained(root / "tokenizer")
    return root


def lines_of(folder, **options):
    path = str(folder / "train.txt")
    data = LabelledText(path, str(folder / "tokenizer"), path, **options)
    data.setup("fit")
    return data


def test_rows_are_the_same_made_kept_and_never_kept(folder, cache_home):
    plain = lines_of(folder, token_cache=False)
    assert not list(cache_home.iterdir())
    made, kept = lines_of(folder), lines_of(folder)
    expected = make_tokenizer()(generate_reviews(60, 2, "train")["text"])
    for data in (plain, made, kept):
        assert data.train_data["input_ids"] == expected["input_ids"]
        assert data.train_data["attention_mask"] == expected["attention_mask"]
        assert data.labels().tolist() == generate_reviews(60, 2, "train")["label"]


def test_a_second_run_does_not_tokenize(folder):
    lines_of(folder)
    texts = {"text": generate_reviews(60, 2, "train")["text"]}
    key = cache_key(load_tokenizer(str(folder / "tokenizer")), 128, texts)
    assert len(cached_tokens(key, never)["input_ids"].starts) == 61


def test_keys_differ_by_all_that_tokens_depend_on():
    tokenizer = make_tokenizer()
    key = cache_key(tokenizer, 16, TEXTS)
    tokenizer(["the soup"], truncation=True, max_length=4, padding=True)
    assert cache_key(tokenizer, 16, TEXTS) == key, "calls leave no trace"
    assert cache_key(make_tokenizer(), 16, TEXTS) == key
    keys = [key, cache_key(tokenizer, 17, TEXTS)]
    keys.append(cache_key(tokenizer, 16, {"text": TEXTS["text"]}))
    keys.append(cache_key(tokenizer, 16, {"text": ["the soup was blan", "d", "it"]}))
    keys.append(cache_key(tokenizer, 16, {**TEXTS, "text_pair": ["a b", "c of", "the"]}))
    tokenizer.truncation_side = "left"
    keys.append(cache_key(tokenizer, 16, TEXTS))
    tokenizer.add_tokens(["soup was"])
    keys.append(cache_key(tokenizer, 16, TEXTS))
    tokenizer.eos_token = "soup was"  # which ends replies, and is in no file of the tokenizer's own
    keys.append(cache_key(tokenizer, 16, TEXTS))
    slow = ByT5Tokenizer()
    keys.append(cache_key(slow, 16, TEXTS))
    assert cache_key(ByT5Tokenizer(), 16, TEXTS) == keys[-1]
    keys.append(cache_key(ByT5Tokenizer(extra_ids=7), 16, TEXTS))
    assert len(set(keys)) == len(keys)


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=4), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_read_is_what_was_written(lists):
    starts = torch.tensor([0, *(len(part) for part in lists)]).cumsum(0)
    values = torch.tensor([value for part in lists for value in part], dtype=torch.int32)
    written = {"input_ids": Lists(values, starts), "mask": Lists((values % 2).char(), 1 * starts)}
    cached_tokens(key := f"{hash(str(lists)):x}", lambda: written)
    assert same(cached_tokens(key, never), written)


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "other"])
def test_a_damaged_file_is_made_anew(cache_home, harm):
    cached_tokens("key", columns)
    file = the_file(cache_home)
    whole = file.read_bytes()
    places = range(len(whole)) if harm == "flipped" else range(1)
    for place in places:
        harmed = bytearray(whole)
        harmed[place] ^= 4
        other = {"flipped": bytes(harmed), "cut": whole[:-1], "empty": b"", "other": b"x" * 300}
        # Not in place, which would change what is mapped.
        file.unlink()
        file.write_bytes(other[harm])
        assert same(cached_tokens("key", columns), columns())
    assert file.read_bytes() == whole


def test_nobody_else_may_read_it(cache_home):
    cached_tokens("key", columns)
    file = the_file(cache_home)
    file.parent.chmod(0o755)
    cached_tokens("key", never)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs Linux's list of maps")
@pytest.mark.filterwarnings("error")
def test_rows_lie_in_the_file(folder, cache_home):
    values, _ = lines_of(folder).train_data._lists["input_ids"]
    name = str(the_file(cache_home))
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if name in line]
    bounds = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
    assert any(low <= values.data_ptr() < high for low, high in bounds)


def test_without_a_folder_tokens_stay_in_memory(cache_home):
    (cache_home / "fedtt-lightning").write_text("in the way")
    with pytest.warns(UserWarning, match=r"XDG_CACHE_HOME.*or data\.token_cache to false"):
        assert same(cached_tokens("key", columns), columns())


def test_processes_at_once_agree_and_leave_one_file(cache_home):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = [pool.apply_async(_one) for _ in range(8)]
        assert all(result.get(60) == COLUMNS["input_ids"] for result in found)
    assert the_file(cache_home).suffix == ".safetensors"


def _one():
    column = cached_tokens("key", columns)["input_ids"]
    places = column.starts.tolist()
    return [column.values[a:b].tolist() for a, b in pairwise(places)]
