"""SuperGLUE and its kin as federated data: prompts for decoders, pairs for encoders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from byte_tokenizer import byte_tokenizer
from fedtt_lightning.data import ByColumn, Dirichlet, SuperGlueData
from fedtt_lightning.data.builtin_backbone import make_tokenizer
from fedtt_lightning.data.superglue import HUB
from fedtt_lightning.errors import ConfigError


def boolq(index):
    return {"question": f"is it {index}", "passage": f"It is {index}.", "label": index % 3 > 0}


def multirc(index):
    answers = [{"text": text, "idx": 0, "label": k} for k, text in enumerate(("no", "yes"))]
    questions = [{"question": f"why {q}?", "idx": q, "answers": answers} for q in (0, 1)]
    return {"idx": index, "passage": {"text": f"It is {index}.", "questions": questions}}


def record(index):
    text = "Ann and Bob"
    entities = [{"start": 0, "end": 2}, {"start": 8, "end": 10}]
    queries = [{"query": f"@placeholder {index}", "idx": 0, "answers": [{"text": "Bob"}]}]
    return {"idx": index, "passage": {"text": text, "entities": entities}, "qas": queries}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("superglue")
    made = {"BoolQ": boolq, "MultiRC": multirc, "ReCoRD": record}
    for name, row in made.items():
        for split, size in (("train", 30), ("val", 12)):
            (root / name).mkdir(exist_ok=True)
            lines = [json.dumps(row(index)) for index in range(size)]
            (root / name / f"{split}.jsonl").write_text("\n".join(lines))
    (root / "SST-2").mkdir()
    for split in ("train", "dev"):
        rows = "sentence\tlabel\na fine film \t1\na bore\t0\n"
        (root / "SST-2" / f"{split}.tsv").write_text(rows)
    question = {"id": "q", "question": "Where?", "answers": [{"text": "Rome"}]}
    squad = {
        "data": [{"title": "Italy", "paragraphs": [{"context": "It.", "qas": [question] * 4}]}]
    }
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (root / "SQuAD").mkdir(exist_ok=True)
        (root / "SQuAD" / name).write_text(json.dumps(squad))
    byte_tokenizer().save_pretrained(root / "decoder")
    make_tokenizer().save_pretrained(root / "encoder")
    return root


def data(folder, task="BoolQ", tokenizer="decoder", **options):
    return SuperGlueData(task, str(folder / tokenizer), str(folder), **options)


def set_up(made, stage="fit"):
    made.setup(stage)
    if stage == "fit":
        made.federate(0)
    return made


def test_batches_of_prompts(folder):
    made = set_up(data(folder, clients=3, eval_batch_size=5))
    assert (made.task, made.num_labels, made.label_names) == ("boolq", 2, ["no", "yes"])
    tokenizer = byte_tokenizer()
    batch = made.loader.collate_fn([made.train_data[i] for i in (0, 1)])
    text = tokenizer.decode(batch["input_ids"][1][batch["attention_mask"][1] > 0])
    assert text == "<s>It is 1.\nQuestion: is it 1?\nAnswer: yes"
    answers = [tokenizer.decode(row[row >= 0]) for row in batch["labels"]]
    assert answers == [" no", " yes"]
    batches = list(made.val_dataloader())
    assert [len(batch["label"]) for batch in batches] == [5, 5, 2]
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [
        int(index % 3 > 0) for index in range(12)
    ]
    assert [len(batch["owner"]) for batch in batches] == [10, 10, 4]


def test_packed_batches_hold_the_same_examples(folder):
    whole, packed = (set_up(data(folder, packing=packing)) for packing in (False, True))
    rows = [whole.train_data[i] for i in range(8)]
    batch = packed.loader.collate_fn(rows)
    assert sum(len(row["input_ids"]) for row in rows) == int((batch["segments"] > 0).sum())
    assert whole.loader.collate_fn(rows)["input_ids"].shape[0] == 8


def test_clients_divide_prompts_by_label_and_by_column(folder):
    made = set_up(data(folder, clients=3, partition=Dirichlet(0.5, min_examples=1)))
    labels = made.labels()
    assert labels.tolist() == [int(index % 3 > 0) for index in range(30)]
    assert sorted(np.concatenate(list(made.clients))) == list(range(30))
    made = set_up(data(folder, "multirc", clients=None, partition=ByColumn("paragraph")))
    assert made.clients.sizes.tolist() == [4] * 30
    table = made.partition_table()
    assert "no" in table and "yes" in table
    with pytest.raises(ConfigError, match="has no integer labels"):
        set_up(data(folder, "record", clients=2, partition=Dirichlet(0.5)))


def test_holdout_and_limits(folder):
    made = set_up(data(folder, holdout=7, train_limit=11, eval_limit=5, clients=2))
    assert len(made.train_data) == 11
    assert len(made.val_dataloader().dataset) == 5
    made.setup("test")
    assert len(made.test_dataloader().dataset) == 5
    again = set_up(data(folder, holdout=7, train_limit=11, clients=3))
    assert again.train_data["input_ids"] == made.train_data["input_ids"]
    assert len(again.val_dataloader().dataset) == 7
    other = set_up(data(folder, holdout=7, train_limit=11, split_seed=1))
    assert other.train_data["input_ids"] != made.train_data["input_ids"]


def test_questions_of_multirc_stay_together(folder):
    made = set_up(data(folder, "multirc", holdout=9, eval_limit=7, eval_batch_size=99))
    (batch,) = made.val_dataloader()
    groups = batch["group"]
    assert len(groups) == 6 and all(groups.count(group) == 2 for group in groups)
    assert len(made.train_data) == 120 - 8


def test_predict_takes_the_test_set_where_there_is_one(folder, tmp_path):
    (tmp_path / "BoolQ").mkdir()
    for split in ("train", "val"):
        content = (folder / "BoolQ" / f"{split}.jsonl").read_text()
        (tmp_path / "BoolQ" / f"{split}.jsonl").write_text(content)
    made = SuperGlueData("boolq", str(folder / "decoder"), str(tmp_path))
    made.setup("predict")
    assert len(made.predict_dataloader().dataset) == 12
    (tmp_path / "BoolQ" / "test.jsonl").write_text('{"question": "is it", "passage": "It."}')
    made = SuperGlueData("boolq", str(folder / "decoder"), str(tmp_path))
    made.setup("predict")
    (batch,) = made.predict_dataloader()
    assert batch["label"].tolist() == [-1] and batch["answers"] == [["no", "yes"]]


def test_other_tasks(folder):
    made = set_up(data(folder, "SST-2", clients=2))
    (batch,) = made.val_dataloader()
    assert batch["label"].tolist() == [1, 0] and made.label_names == ["negative", "positive"]
    assert made.train_data["where"] == [f"{folder}/SST-2/train.tsv:{line}" for line in (2, 3)]
    (batch,) = set_up(data(folder, "ReCoRD", eval_limit=1)).val_dataloader()
    assert batch["gold"] == [["Bob"]] and batch["answers"] == [["Ann", "Bob"]]
    made = set_up(data(folder, "squad", clients=None, partition=ByColumn("title")))
    (batch,) = made.val_dataloader()
    assert batch["references"] == [["Rome"]] * 4 and made.num_labels == 1
    assert byte_tokenizer().decode(made.train_data[0]["input_ids"]).endswith("Answer: Rome</s>")


def test_classification_for_encoders(folder):
    made = set_up(data(folder, tokenizer="encoder", as_prompts=False, eval_limit=6, clients=2))
    (batch,) = made.val_dataloader()
    assert set(batch) == {"input_ids", "attention_mask", "labels"} and len(batch["labels"]) == 6
    batch = made.loader.collate_fn([made.train_data[0]])
    expected = make_tokenizer()("is it 0", "It is 0.")
    assert batch["input_ids"].tolist() == [expected["input_ids"]]
    assert batch["labels"].tolist() == [0]
    assert made.labels().tolist() == [int(index % 3 > 0) for index in range(30)]


def test_pairs_of_multirc_tell_their_questions_and_keep_them_whole(folder):
    made = data(folder, "multirc", "encoder", as_prompts=False, holdout=9, eval_limit=7)
    set_up(made)
    (batch,) = made.val_dataloader()
    groups = batch["group"]
    assert len(groups) == len(batch["labels"]) == 6
    assert all(groups.count(group) == 2 for group in groups)
    assert len(made.train_data) == 120 - 8
    assert "group" not in made.loader.collate_fn([made.train_data[0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "axb"}, r"data\.task is 'axb'; choose one of boolq, cb,"),
        ({"task": "cb"}, r"has no folder 'CB' \(or 'cb'\) for task cb"),
        ({"task": "record", "as_prompts": False}, r"data\.as_prompts is false, but record is no"),
        ({"as_prompts": False, "packing": True}, r"data\.packing is for prompts"),
        ({"eval_limit": 0}, r"data\.eval_limit is 0"),
        ({"max_length": 8}, r"BoolQ/train\.jsonl:1: .* more than data\.max_length=8; raise it"),
        ({"holdout": 30}, r"data\.holdout is 30, but boolq has 30 training rows"),
        ({"clients": 31}, r"data\.clients is 31, more than the 30 training examples"),
    ],
)
def test_bad_options_are_refused(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        set_up(data(folder, **options))


def test_drop_is_not_read_from_the_hub(folder):
    with pytest.raises(ConfigError, match=r"official files only.* drop_dataset_train\.json"):
        SuperGlueData("drop", str(folder / "decoder")).setup("fit")


def test_without_a_network_the_hub_path_says_what_to_do(folder, monkeypatch):
    monkeypatch.setitem(HUB, "cb", ("nobody/nowhere", "cb"))  # in nobody's cache
    with pytest.raises(ConfigError) as error:
        SuperGlueData("cb", str(folder / "decoder")).setup("fit")
    assert str(error.value).startswith("nobody/nowhere (cb) could not be loaded from the hub (")
    assert "point data.data_dir at a folder with the official files (CB/train.jsonl)" in str(
        error.value
    )


@pytest.mark.real
@pytest.mark.parametrize("task", ["boolq", "cb", "copa", "wic", "wsc", "sst2"])
def test_real_tasks_through_a_real_tokenizer(shared, llama_dir, task):
    folder = shared / "data" / ("glue" if task == "sst2" else "superglue")
    made = SuperGlueData(
        task,
        str(llama_dir),
        str(folder),
        max_length=256,
        clients=4,
        train_limit=32,
        eval_limit=20,
        eval_batch_size=4,
    )
    set_up(made)
    batch = made.loader.collate_fn([made.train_data[int(i)] for i in made.clients[0]])
    assert batch["input_ids"].shape[1] <= 256 and (batch["labels"][:, 0] == -100).all()
    assert sum(len(batch["label"]) for batch in made.val_dataloader()) == 20
