import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from fedtt_lightning.data import ByColumn, GlueData
from fedtt_lightning.data.builtin_backbone import make_tokenizer
from fedtt_lightning.data.builtin_text import generate_reviews
from fedtt_lightning.data.glue import name_texts
from fedtt_lightning.errors import ConfigError

SHARED = os.environ.get("FEDTT_SHARED")
needs_real = pytest.mark.skipif(
    SHARED is None, reason="FEDTT_SHARED (folder with data/ and weights/) is not set"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An SST-2, STS-B and MNLI folder in the official format, and a tokenizer of their words."""
    root = tmp_path_factory.mktemp("glue")
    for split, size in (("train", 90), ("dev", 21)):
        rows = generate_reviews(size, 1, split)
        lines = [
            f"{text}\t{label}\n" for text, label in zip(rows["text"], rows["label"], strict=True)
        ]
        (root / "SST-2").mkdir(exist_ok=True)
        (root / "SST-2" / f"{split}.tsv").write_text("".join(["sentence\tlabel\n", *lines]))
        head = "index\tgenre\tsentence1\tsentence2\tscore\n"
        lines = [f"{i}\tnews\t{rows['text'][i]}\tthe soup\t{i % 6 * 0.9}\n" for i in range(size)]
        (root / "STS-B").mkdir(exist_ok=True)
        (root / "STS-B" / f"{split}.tsv").write_text("".join([head, *lines]))
        head = "index\tgenre\tsentence1\tsentence2\tgold_label\n"
        genres = rows["topic"]
        lines = [f"{i}\t{genres[i]}\ta b\tc\tneutral\n" for i in range(size)]
        (root / "MNLI").mkdir(exist_ok=True)
        name = "train" if split == "train" else "dev_matched"
        (root / "MNLI" / f"{name}.tsv").write_text("".join([head, *lines]))
    make_tokenizer().save_pretrained(root / "tokenizer")
    return root


def glue(folder, task="sst2", **options):
    return GlueData(task, str(folder / "tokenizer"), str(folder), **options)


def test_batches_are_what_the_tokenizer_says_padded_to_their_longest_text(folder):
    data = glue(folder, batch_size=4)
    data.setup("fit")
    batch = data.loader.collate_fn([data.train_data[i] for i in (3, 0, 8)])
    rows = generate_reviews(9, 1, "train")
    expected = make_tokenizer()(
        [rows["text"][i] for i in (3, 0, 8)], padding=True, return_tensors="pt"
    )
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(batch[name], expected[name])
    assert batch["labels"].tolist() == [rows["label"][i] for i in (3, 0, 8)]
    assert batch["labels"].dtype == torch.int64


def test_pairs_are_cut_to_max_length_and_scores_are_floats(folder):
    data = glue(folder, "STS-B", max_length=9)
    data.setup("fit")
    assert (data.task, data.num_labels, data.label_names) == ("stsb", 1, None)
    batch = next(iter(data.val_dataloader()))
    assert batch["input_ids"].shape == (21, 9)
    assert batch["labels"].dtype == torch.float32
    assert torch.allclose(batch["labels"], torch.arange(21) % 6 * 0.9)
    assert data.labels() is None


def test_holdout_and_limit_do_not_follow_the_experiment(folder):
    whole = glue(folder)
    whole.setup("fit")
    data = glue(folder, holdout=20, train_limit=30)
    data.setup("fit")
    data.federate(seed=123)
    held, train = data._splits["holdout"], data.train_data
    assert (len(train), len(held)) == (30, 20)
    assert data.val_dataloader().dataset is held
    rows = [tuple(row) for row in whole.train_data["input_ids"]]
    places = [[rows.index(tuple(row)) for row in part["input_ids"]] for part in (train, held)]
    assert not set(places[0]) & set(places[1])
    more = glue(folder, holdout=20, train_limit=40)
    more.setup("fit")
    assert more._splits["holdout"]["input_ids"] == held["input_ids"]
    other = glue(folder, holdout=20, split_seed=1)
    other.setup("fit")
    assert other._splits["holdout"]["input_ids"] != held["input_ids"]


def test_validate_and_test_read_no_training_file(folder, tmp_path):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "dev.tsv").write_bytes((folder / "SST-2" / "dev.tsv").read_bytes())
    data = GlueData("sst2", str(folder / "tokenizer"), str(tmp_path))
    for stage, loader in (
        ("validate", data.val_dataloader),
        ("test", data.test_dataloader),
        ("predict", data.predict_dataloader),
    ):
        data.setup(stage)
        assert sum(len(batch["labels"]) for batch in loader()) == 21


def test_a_genre_is_a_natural_client(folder):
    data = glue(folder, "mnli", clients=None, partition=ByColumn("genre"))
    data.setup("fit")
    data.federate(0)
    genres = np.array(generate_reviews(90, 1, "train")["topic"])
    assert [set(genres[part]) for part in data.clients] == [{name} for name in np.unique(genres)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "boolq"}, r"data\.task is 'boolq'"),
        ({"mismatched": True}, r"data\.mismatched is for task mnli"),
        ({"holdout": -1}, r"data\.holdout"),
        ({"train_limit": 0}, r"data\.train_limit"),
        ({"holdout": 90}, r"data\.holdout is 90, but sst2 has 90 training rows"),
        ({"task": "rte"}, "no folder 'RTE'"),
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"max_length": 1}, r"data\.max_length"),
    ],
)
def test_bad_options_are_refused(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        glue(folder, **{"task": "sst2", **options}).setup("fit")


def test_a_tokenizer_that_is_no_folder_and_not_cached_is_refused(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"data\.tokenizer .* could not be loaded"):
        GlueData("sst2", str(empty), str(folder)).setup("fit")


@pytest.mark.parametrize(
    "texts", [["sentence"], ["question", "sentence"], ["premise", "hypothesis"]]
)
def test_columns_of_the_hub_are_renamed(texts):
    rows = Dataset.from_dict({**{name: [f"a {name}"] for name in texts}, "label": [1], "idx": [0]})
    named = name_texts(rows)
    assert named.column_names == [*("text", "text_pair")[: len(texts)], "label"]
    assert named["text"][0] == f"a {texts[0]}"


def test_without_a_network_the_hub_path_says_what_to_do(folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
    data = GlueData("rte", str(folder / "tokenizer"))
    with pytest.raises(ConfigError, match=r"^nyu-mll/glue \(rte\) could not be loaded .*") as error:
        data.setup("fit")
    assert "point data.data_dir at a folder" in str(error.value)


@needs_real
@pytest.mark.real
@pytest.mark.parametrize(
    ("task", "train", "dev", "first"),
    [("sst2", 67_349, 872, 0), ("cola", 8_551, 1_043, 1), ("rte", 2_490, 277, 1)],
)
def test_the_real_files(task, train, dev, first):
    from fedtt_lightning.data.glue_files import find_task_folder, read_split

    folder = find_task_folder(Path(SHARED) / "data" / "glue", task)
    rows = read_split(folder, task, "train")
    assert len(rows["text"]) == len(rows["label"]) == train
    assert rows["label"][0] == first
    assert len(read_split(folder, task, "dev")["label"]) == dev


@needs_real
@pytest.mark.real
def test_real_texts_through_a_real_tokenizer():
    backbone = str(Path(SHARED) / "weights" / "bert-tiny-reviews")
    data = GlueData("RTE", backbone, str(Path(SHARED) / "data" / "glue"), max_length=64, clients=3)
    data.setup("fit")
    data.federate(0)
    batch = data.loader.collate_fn([data.train_data[int(i)] for i in data.clients[0][:8]])
    assert batch["input_ids"].shape[1] <= 64
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert batch["token_type_ids"].max() == 1
    with pytest.raises(ConfigError, match=r"QNLI.train\.tsv is missing"):
        GlueData("qnli", backbone, str(Path(SHARED) / "data" / "glue")).setup("fit")
