"""Instructions from JSON lines: whose they are, what batches hold, what is refused."""

import json

import pytest
import torch

from byte_tokenizer import byte_tokenizer
from fedtt_lightning.data import ByColumn, InstructionData
from fedtt_lightning.errors import ConfigError

TOKENS = byte_tokenizer()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    TOKENS.save_pretrained(folder)
    return str(folder)


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(number, **fields):
    return {"instruction": f"why {number}?", "output": f"the answer is {number}.", **fields}


@pytest.fixture
def folder(tmp_path):
    chat = [
        {"role": r, "content": c} for r, c in zip("uaua", ("why?", "no", "no?", "yes"), strict=True)
    ]
    for message in chat:
        message["role"] = {"u": "user", "a": "assistant"}[message["role"]]
    written(tmp_path / "a.jsonl", [row(i, site=i % 3, input="yes or no") for i in range(5)])
    written(tmp_path / "b.jsonl", [{"messages": chat, "site": 1}, row(9, site=2, input="")])
    return tmp_path


def data_of(folder, tokenizer, **options):
    settings = {"files": str(folder), "holdout": 1, "token_cache": False, **options}
    return InstructionData(tokenizer=tokenizer, **settings)


def text(ids):
    return TOKENS.decode([token for token in ids if token >= 0], skip_special_tokens=True)


def test_each_file_is_a_client_and_batches_hold_the_replies(folder, tokenizer):
    test = written(folder.parent / "test.jsonl", [row(7)])
    data = data_of(folder, tokenizer, holdout=0, test_files=test, batch_size=7)
    data.setup("fit")
    data.federate(0)
    assert data.clients.sizes.tolist() == [5, 2]
    assert (data.task, data.labels()) == ("instructions", None)
    assert "all 2" in data.partition_table()
    batch = data.loader.collate_fn([data.train_data[i] for i in range(7)])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    replies = [text(labels) for labels in batch["labels"].tolist()]
    assert replies == [*(f"the answer is {i}." for i in range(5)), "noyes", "the answer is 9."]
    asked = "### Instruction:\nwhy 0?\n\nyes or no\n\n### Response:\nthe answer is 0."
    assert text(batch["input_ids"][0].tolist()) == asked
    assert "\n\n\n" not in text(batch["input_ids"][6].tolist())
    (val,) = data.val_dataloader()
    assert text(val["labels"][0].tolist()) == "the answer is 7."


def test_packing_holds_the_same_examples(folder, tokenizer):
    data = data_of(folder, tokenizer, packing=True, batch_size=6)
    data.setup("fit")
    examples = [data.train_data[i] for i in range(len(data.train_data))]
    batch = data.loader.collate_fn(examples)
    ids = sorted(
        batch["input_ids"][row][batch["segments"][row] == k].tolist()
        for row in range(len(batch["input_ids"]))
        for k in range(1, int(batch["segments"][row].max()) + 1)
    )
    assert ids == sorted(example["input_ids"].tolist() for example in examples)
    assert (batch["labels"] >= 0).sum() == sum((e["labels"] >= 0).sum() for e in examples)


def test_a_column_divides_and_held_out_rows_are_tested_on(folder, tokenizer):
    options = {"partition": ByColumn("site"), "clients": None, "holdout": 2}
    data = data_of(folder, tokenizer, **options)
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    data.federate(0)
    assert sorted(data.clients.sizes.tolist()) != [5]
    assert data.clients.sizes.sum() == 5
    (val,), (test,), (predict,) = (
        data.val_dataloader(),
        data.test_dataloader(),
        data.predict_dataloader(),
    )
    assert torch.equal(val["input_ids"], test["input_ids"]) and len(val["input_ids"]) == 2
    assert set(predict) == {"input_ids", "attention_mask", "references"}
    assert bool(predict["attention_mask"][:, -1].all())
    for ids, mask, (reference,), whole in zip(
        predict["input_ids"],
        predict["attention_mask"],
        predict["references"],
        val["input_ids"],
        strict=True,
    ):
        asked = ids[mask == 1]
        assert torch.equal(asked, whole[: len(asked)])
        assert text(whole[len(asked) :].tolist()).startswith(reference)


def test_eval_limit_and_train_limit(folder, tokenizer):
    test = written(folder.parent / "test.jsonl", [row(i) for i in range(9)])
    data = data_of(folder, tokenizer, holdout=0, test_files=test, eval_limit=4)
    data.setup("fit")
    data.setup("predict")
    assert sum(len(batch["input_ids"]) for batch in data.val_dataloader()) == 4
    (predict,) = data.predict_dataloader()
    (val,) = data.val_dataloader()
    answers = [text(labels) for labels in val["labels"].tolist()]
    assert answers == [reference for (reference,) in predict["references"]]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"instruction": "why?"}, r"bad\.jsonl:2: there is no field 'output'"),
        ({"output": "no"}, r"bad\.jsonl:2: a row needs 'instruction' and 'output', or 'messages'"),
        ({"instruction": "why?", "output": ""}, r"bad\.jsonl:2: field 'output' is blank"),
        (row(1, input=3), r"bad\.jsonl:2: field 'input' is 3, not a text"),
        (row(1, site="x"), r"bad\.jsonl:2: .* takes \d+ tokens, more than data\.max_length=40"),
        ({"messages": [{"role": "user", "content": "a"}]}, r"bad\.jsonl:2: the last message is"),
    ],
)
def test_bad_rows_are_refused_with_their_line(folder, tokenizer, bad, message):
    if "site" in bad:
        bad["instruction"] = "why? " * 50
    short = {"instruction": "why?", "output": "no"}
    path = written(folder / "bad.jsonl", [short, bad, short])
    data = data_of(folder, tokenizer, files=path, clients=1, max_length=40)
    with pytest.raises(ConfigError, match=message):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout": 0}, r"nothing to evaluate on; name data\.test_files"),
        ({"partition": ByColumn("ward")}, r"a\.jsonl:1: there is no field 'ward'"),
        ({"train_limit": 1}, r"[ab]\.jsonl: no row is left to train its client on"),
        ({"files": "none.jsonl"}, r"data\.files: none\.jsonl is no file"),
        ({"eval_limit": 0}, r"data\.eval_limit"),
    ],
)
def test_bad_options_are_refused(folder, tokenizer, options, message):
    with pytest.raises(ConfigError, match=message):
        data_of(folder, tokenizer, **options).setup("fit")


def test_an_empty_file_is_a_client_without_rows(folder, tokenizer):
    (folder / "c.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match=r"c\.jsonl: the file has no rows; leave it out"):
        data_of(folder, tokenizer).setup("fit")
