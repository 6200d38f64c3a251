"""Texts from files: what is a document, whose it is, and what can be wrong."""

import json

import pytest

from byte_tokenizer import byte_tokenizer
from fedtt_lightning.data import IID, ByColumn, StoryData, TextCorpus
from fedtt_lightning.errors import ConfigError

TOKENS = byte_tokenizer()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    TOKENS.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b.txt").write_text("one yes\nmore\n\n \ntwo no\r\n\r\nthree why\n")
    (tmp_path / "a.txt").write_text("four is\n")
    rows = [{"text": f"five{i}", "who": "xy"[i % 2], "part": i} for i in range(4)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "notes.md").write_text("not for training")
    return tmp_path


def texts(data, split="train"):
    return sorted(
        TOKENS.decode(ids, skip_special_tokens=True) for ids in data._splits[split]["input_ids"]
    )


def test_each_file_of_a_folder_is_a_client(folder, tokenizer):
    data = TextCorpus(str(folder), tokenizer, test_files=str(folder / "a.txt"))
    data.setup("fit")
    data.federate(0)
    assert data.clients.sizes.tolist() == [1, 3, 4]
    documents = ["one yes\nmore", "two no", "three why", "four is", *(f"five{i}" for i in range(4))]
    assert texts(data) == sorted(documents)
    assert texts(data, "dev") == ["four is"]
    assert (data.task, data.labels()) == ("text", None)
    assert "all 3" in data.partition_table()


def test_clients_stand_in_the_order_of_the_list(folder, tokenizer):
    files = [str(folder / "c.jsonl"), str(folder / "?.txt")]
    data = TextCorpus(files, tokenizer, documents="lines", holdout=1)
    data.setup("fit")
    data.federate(0)
    assert [path.name for path in data.files] == ["c.jsonl", "a.txt", "b.txt"]
    assert data.clients.sizes.sum() == 4 + 1 + 4 - 1


def test_columns_of_json_lines_divide(folder, tokenizer):
    one = str(folder / "c.jsonl")
    data = TextCorpus(one, tokenizer, holdout=1, clients=None, partition=ByColumn("who"))
    for stage in ("fit", "test"):
        data.setup(stage)
    data.federate(0)
    assert data.clients.sizes.sum() == 3
    assert sorted(data.train_data["who"]) != ["x", "y"]
    assert texts(data, "dev") == texts(data, "holdout")  # which are the test documents, too
    assert sorted(texts(data) + texts(data, "dev")) == [f"five{i}" for i in range(4)]


def test_long_documents_make_several_examples_of_their_client(folder, tokenizer):
    (folder / "a.txt").write_text("yes or no? " * 30)
    data = TextCorpus(str(folder), tokenizer, test_files=str(folder / "b.txt"), max_length=16)
    data.setup("fit")
    data.federate(0)
    tokens = len(TOKENS(("yes or no? " * 30).strip())["input_ids"])
    assert data.clients.sizes[0] == -(-(tokens - 1) // 15)
    batch = next(iter(data.val_dataloader()))
    assert batch["input_ids"].shape == batch["labels"].shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": "nowhere/*.txt"}, r"data\.files: nowhere/\*\.txt is no file"),
        ({"files": []}, r"data\.files is empty"),
        ({"test_files": "gone.txt"}, r"data\.test_files: gone\.txt is no file"),
        ({"holdout": 0}, r"nothing to evaluate on; name data\.test_files, or set data\.holdout"),
        ({"text_column": "body"}, r"c\.jsonl:1: there is no field 'body'"),
        ({"partition": ByColumn("who")}, r"a\.txt: there is no field 'who'"),
        ({"holdout": 7}, r"\.(txt|jsonl): no row is left to train its client on"),
        ({"partition": IID(), "clients": None}, r"data\.clients is not set"),
    ],
)
def test_bad_options_are_refused(folder, tokenizer, options, message):
    settings = {"files": str(folder), "tokenizer": tokenizer, "holdout": 1, **options}
    with pytest.raises(ConfigError, match=message):
        _fit(settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": 3}\n', r"d\.jsonl:2: field 'text' is 3, not a text"),
        (b'{"text": "a"}\n\n{"text": " "}\n', r"d\.jsonl:3: field 'text' is blank"),
        (b'{"text": "a"}\n{"text": \n', r"d\.jsonl:2: no JSON"),
        (b'["a"]\n', r"d\.jsonl:1: list in place of an object"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', r"d\.jsonl:2: not UTF-8"),
        (b"\n", r"d\.jsonl: the file holds no text"),
    ],
)
def test_bad_files_are_refused_with_their_line(folder, tokenizer, content, message):
    (folder / "d.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        _fit({"files": str(folder / "d.jsonl"), "tokenizer": tokenizer, "holdout": 1})


def _fit(settings):
    data = TextCorpus(**settings)
    data.setup("fit")
    data.federate(0)


def test_stories_by_world(tokenizer):
    data = StoryData(tokenizer, train_size=120, test_size=10, clients=None, token_cache=False)
    data.setup("fit")
    data.federate(3)
    assert len(data.clients) == 12
    for client in data.clients:
        assert len({data.train_data[int(row)]["world"] for row in client}) == 1
    assert texts(data, "dev")
    with pytest.raises(ConfigError, match=r"data\.train_size"):
        StoryData(tokenizer, train_size=0)
