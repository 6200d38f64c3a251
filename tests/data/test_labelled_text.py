import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from fedtt_lightning.cli import main
from fedtt_lightning.data import LabelledText, LabelShares
from fedtt_lightning.data.builtin_backbone import make_tokenizer
from fedtt_lightning.data.builtin_text import generate_reviews
from fedtt_lightning.errors import ConfigError

SHARED = os.environ.get("FEDTT_SHARED")
needs_real = pytest.mark.skipif(
    SHARED is None, reason="FEDTT_SHARED (folder with data/ and weights/) is not set"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A training and a test file, and a tokenizer of their words."""
    root = tmp_path_factory.mktemp("lines")
    for split, size in (("train", 60), ("test", 21)):
        rows = generate_reviews(size, 2, split)
        lines = zip(rows["label"], rows["text"], strict=True)
        (root / f"{split}.txt").write_text("".join(f"{label} {text}\n" for label, text in lines))
    make_tokenizer().save_pretrained(root / "tokenizer")
    return root


def lines_of(folder, **options):
    files = {"train_file": str(folder / "train.txt"), "test_file": str(folder / "test.txt")}
    return LabelledText(tokenizer=str(folder / "tokenizer"), **{**files, **options})


def written(tmp_path, content, encoding="utf-8"):
    path = tmp_path / "lines.txt"
    path.write_bytes(content.encode(encoding))
    return str(path)


def texts(data, split):
    """The token ids of a split as a sorted list: its rows, whatever their order."""
    return sorted(map(tuple, data._splits[split]["input_ids"]))


def test_rows_and_batches_are_what_the_files_say(folder):
    data = lines_of(folder, batch_size=4)
    assert (data.num_labels, data.label_names, data.task) == (2, ["0", "1"], "text")
    data.setup("fit")
    rows = generate_reviews(60, 2, "train")
    tokens = make_tokenizer()
    assert data.train_data["input_ids"] == [tokens(text)["input_ids"] for text in rows["text"]]
    assert data.labels().tolist() == rows["label"]
    batches = list(data.test_dataloader())
    assert (
        np.concatenate([b["labels"] for b in batches]).tolist()
        == (generate_reviews(21, 2, "test")["label"])
    )


def test_texts_can_be_grouped_by_their_length(folder):
    data = lines_of(folder, group_by_length=True)
    data.setup("fit")
    assert data.loader.group_by_length
    assert data.train_data.lengths.tolist() == [len(ids) for ids in data.train_data["input_ids"]]
    assert data.train_data.lengths.std() > 0


def test_workers_of_validation_live_on(folder):
    data = lines_of(folder, num_workers=1)
    data.setup("fit")
    before = set(multiprocessing.active_children())
    seen = []
    for _ in range(2):
        assert sum(len(batch["labels"]) for batch in data.val_dataloader()) == 21
        seen.append(set(multiprocessing.active_children()) - before)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 1


def test_drawn_test_rows_are_the_same_for_all_and_apart_from_the_rest(folder):
    parts = {"test_file": None, "test_fraction": 0.25, "holdout": 10, "train_limit": 20}
    data = lines_of(folder, **parts)
    for stage in ("fit", "test"):
        data.setup(stage)
    sizes = {split: len(data._splits[split]) for split in ("train", "holdout", "dev")}
    assert sizes == {"train": 20, "holdout": 10, "dev": 15}
    whole = lines_of(folder)
    whole.setup("fit")
    drawn = sorted(texts(data, "train") + texts(data, "holdout") + texts(data, "dev"))
    everything = texts(whole, "train")
    assert len(set(everything)) == len(everything)
    assert set(drawn) < set(everything) and len(set(drawn)) == 45
    again = lines_of(folder, **{**parts, "holdout": 0, "train_limit": None})
    again.setup("test")
    assert texts(again, "dev") == texts(data, "dev")
    other = lines_of(folder, **parts, split_seed=1)
    other.setup("test")
    assert texts(other, "dev") != texts(data, "dev")


def test_labels_stand_in_the_order_of_numbers_or_of_the_list(folder, tmp_path):
    def names(content, **options):
        path = written(tmp_path, content)
        return lines_of(folder, train_file=path, test_file=path, **options)

    assert names("10 a\n9 b\n-1 c\n").label_names == ["-1", "9", "10"]
    assert names("b x\n10 y\n").label_names == ["10", "b"]
    data = names("neg a\npos b\nneg c\n", labels=["pos", "neg"])
    data.setup("fit")
    assert data.labels().tolist() == [1, 0, 1]


def test_separators_and_encodings(folder, tmp_path):
    path = written(tmp_path, "0\tthe café : a\tb\r\n1\tthe\x85soup\n", "latin-1")
    data = lines_of(folder, train_file=path, test_file=path, separator="\t", encoding="latin-1")
    assert [line.text for line in data._lines("train")] == ["the café : a\tb", "the\x85soup"]
    with pytest.raises(ConfigError, match=r"lines\.txt:1: not utf-8.*set data\.encoding"):
        lines_of(folder, train_file=path, separator="\t")
    marked = written(tmp_path, "\ufeff0 a\n1 b\n")
    assert lines_of(folder, train_file=marked).label_names == ["0", "1"]
    with pytest.raises(ConfigError, match=r"data\.encoding is 'klingon'"):
        lines_of(folder, encoding="klingon")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 a\nnothing\n1 b\n", r"lines\.txt:2: 'nothing' is not of the form 'label text'"),
        ("0 a\n\n1 b\n", r"lines\.txt:2: '' is not of the form"),
        ("0 a\n1 \n", r"lines\.txt:2: '1 ' is not of the form"),
        (" a b\n", r"lines\.txt:1: ' a b' is not of the form"),
        ("", r"lines\.txt: the file has no lines"),
        ("0 a\n0 b\n", r"lines\.txt: a classification needs two or more different labels"),
    ],
)
def test_a_file_that_is_not_of_this_form_is_refused_with_its_line(
    folder, tmp_path, content, message
):
    with pytest.raises(ConfigError, match=message):
        lines_of(folder, train_file=written(tmp_path, content))


def test_a_test_label_that_was_never_trained_is_refused_with_its_line(folder, tmp_path):
    data = lines_of(folder, test_file=written(tmp_path, "0 a\n7 b\n"))
    with pytest.raises(ConfigError, match=r"lines\.txt:2: label '7' is not one of 0, 1"):
        data.setup("test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 0.2}, "either test_file, or test_fraction"),
        ({"test_file": None}, "either test_file, or test_fraction"),
        ({"test_file": None, "test_fraction": 1.5}, "between 0 and 1"),
        ({"test_file": None, "test_fraction": 0.001}, "makes 0 test rows of the 60"),
        ({"separator": ""}, r"data\.separator is empty"),
        ({"labels": ["0"]}, r"data\.labels: a classification needs two"),
        ({"labels": ["0", "0"]}, r"data\.labels: a classification needs two"),
        ({"train_file": "nowhere.txt"}, r"nowhere\.txt: No such file"),
        ({"holdout": 60}, r"data\.holdout is 60, but text has 60 training rows"),
        ({"holdout": -1}, r"data\.holdout must be at least 0"),
        ({"max_length": 1}, r"data\.max_length"),
    ],
)
def test_bad_options_are_refused(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        lines_of(folder, **options).setup("fit")


@needs_real
@pytest.mark.real
def test_the_real_files():
    root, backbone = Path(SHARED) / "data", str(Path(SHARED) / "weights" / "bert-tiny-reviews")
    trec = LabelledText(
        str(root / "trec" / "TREC.train.all"),
        backbone,
        str(root / "trec" / "TREC.test.all"),
        encoding="latin-1",
        partition=LabelShares(level="severe"),
        client_holdout=0.1,
    )
    assert trec.num_labels == 6
    trec.setup("fit")
    trec.federate(0)
    assert (len(trec.train_data), len(trec._splits["dev"])) == (5452, 500)
    assert trec.clients.sizes.sum() + trec.held_out.sizes.sum() == 5452
    subj = LabelledText(
        str(root / "subj" / "subj.all"), backbone, test_fraction=0.1, encoding="latin-1"
    )
    subj.setup("fit")
    assert (len(subj.train_data), len(subj._splits["dev"]), subj.num_labels) == (9000, 1000, 2)


@needs_real
@pytest.mark.real
def test_the_command_line_gives_the_model_its_classes(tmp_path, capsys):
    root = Path(SHARED) / "data" / "trec"
    config = Path(__file__).parents[2] / "configs" / "glue" / "sst2_fedtt.yaml"
    data = {
        "train_file": root / "TREC.train.all",
        "test_file": root / "TREC.test.all",
        "encoding": "latin-1",
        "train_limit": 40,
        "clients": 2,
        "max_length": 16,
    }
    options = [part for key, value in data.items() for part in (f"--data.{key}", str(value))]
    code = main(
        [
            "fit", "--config", str(config), "--data", "fedtt_lightning.data.LabelledText",
            "--model.backbone", str(Path(SHARED) / "weights" / "bert-tiny-reviews"), *options,
            "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(tmp_path),
        ]
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    assert "all 2" in capsys.readouterr().out
