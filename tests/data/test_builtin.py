import numpy as np
import pytest
import torch

from fedtt_lightning.data import BuiltinText, ByColumn, LabelShares
from fedtt_lightning.data.builtin import encode
from fedtt_lightning.data.builtin_backbone import make_tokenizer
from fedtt_lightning.data.builtin_text import generate_reviews
from fedtt_lightning.errors import ConfigError


def test_texts_are_encoded_as_the_backbones_tokenizer_does():
    tokenizer = make_tokenizer()
    for text in [*generate_reviews(50, 0, "train")["text"], "the quux was not tasty"]:
        assert encode(text) == dict(tokenizer(text))


def test_batches_of_all_loaders():
    data = BuiltinText(train_size=40, validation_size=30, test_size=20, eval_batch_size=16)
    data.setup("fit")
    batch = data.loader.collate_fn(data.train_data[:5])
    assert batch["labels"].tolist() == [row["label"] for row in data.train_data[:5]]
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert (batch["input_ids"] == 0).equal(batch["attention_mask"] == 0)
    for loader, size in (
        (data.val_dataloader(), 30),
        (data.test_dataloader(), 20),
        (data.predict_dataloader(), 20),
    ):
        assert sum(len(batch["labels"]) for batch in loader) == size
    assert int(torch.cat([b["input_ids"].flatten() for b in loader]).max()) < data.vocab_size


def test_clients_can_differ_by_topic_or_by_label():
    data = BuiltinText(clients=None, partition=ByColumn("topic"))
    data.setup("fit")
    data.federate(0)
    assert data.num_clients == 6
    topics = np.array([row["topic"] for row in data.train_data])
    assert all(len(set(topics[part])) == 1 for part in data.clients)

    data = BuiltinText(clients=3, partition=LabelShares(level="severe"))
    data.setup("fit")
    data.federate(0)
    shares = [data.labels()[part].mean() for part in data.clients]
    assert shares == pytest.approx([0.95, 0.05, 0.5], abs=0.02)
    assert data.partition_table().splitlines()[0].split()[2:] == ["negative", "positive"]


def test_all_experiments_see_the_same_texts():
    first, second = BuiltinText(), BuiltinText()
    for seed, data in ((1, first), (2, second)):
        data.setup("fit")
        data.federate(seed)
    assert first.train_data == second.train_data
    assert not np.array_equal(first.clients.owners(), second.clients.owners())


@pytest.mark.parametrize("options", [{"train_size": 0}, {"test_size": -1}, {"eval_batch_size": 0}])
def test_bad_sizes_are_refused(options):
    with pytest.raises(ConfigError, match=f"data.{next(iter(options))}"):
        BuiltinText(**options)
