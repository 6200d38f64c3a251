import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset as ArrowDataset
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from fedtt_lightning.data import Dirichlet, FederatedDataModule
from fedtt_lightning.data.wrapper import DELEGATED
from fedtt_lightning.errors import ConfigError

LABELS = torch.arange(60) % 3
POINTS = torch.randn(60, 4)


class Plain(LightningDataModule):
    """What a user may have: training and validation data, nothing else."""

    def __init__(self, loader, **extra):
        super().__init__()
        self.make = loader
        self.num_classes = 3
        self.extra = extra
        self.asked = []

    def setup(self, stage):
        self.asked.append(("setup", stage, self.trainer))

    def train_dataloader(self):
        return self.make()

    def val_dataloader(self):
        self.asked.append("val")
        return DataLoader(TensorDataset(POINTS, LABELS), batch_size=30)


class Moving(Plain):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.asked.append("transfer")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def state_dict(self):
        return {"where": 3}

    def load_state_dict(self, state):
        self.asked.append(state)

    def prepare_data(self):
        self.asked.append("prepare")


class Rows(Dataset):
    def __init__(self, row):
        self.row = row

    def __len__(self):
        return 60

    def __getitem__(self, i):
        return self.row(i)


class WithTargets(Rows):
    targets = LABELS.tolist()


def rows_concat():
    whole = TensorDataset(POINTS, LABELS)
    return ConcatDataset([Subset(whole, range(30)), Subset(whole, range(30, 60))])


DATASETS = {
    "tensors": lambda: TensorDataset(POINTS, LABELS),
    "float labels": lambda: TensorDataset(POINTS, LABELS[:, None].float()),
    "subset": lambda: Subset(TensorDataset(POINTS.repeat(2, 1), LABELS.repeat(2)), range(60)),
    "concatenated": rows_concat,
    "tuples": lambda: Rows(lambda i: (POINTS[i], int(LABELS[i]))),
    "dicts": lambda: Rows(lambda i: {"x": POINTS[i], "labels": LABELS[i]}),
    "targets": lambda: WithTargets(lambda i: POINTS[i]),
    "arrow": lambda: ArrowDataset.from_dict({"x": POINTS.tolist(), "label": LABELS.tolist()}),
    "arrow tensors": lambda: ArrowDataset.from_dict(
        {"x": POINTS.tolist(), "label": LABELS.tolist()}
    ).with_format("torch"),
}


@pytest.mark.parametrize("kind", DATASETS)
def test_labels_are_found_in_any_kind_of_dataset(kind):
    dataset = DATASETS[kind]()
    data = FederatedDataModule(
        Plain(lambda: DataLoader(dataset, batch_size=8, shuffle=True)),
        clients=4,
        partition=Dirichlet(alpha=0.5),
    )
    data.setup("fit")
    data.federate(3)
    assert data.train_data is dataset
    assert data.labels().dtype == np.int64
    assert data.labels().tolist() == LABELS.tolist()
    assert data.clients.sizes.sum() == 60


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(POINTS),
        TensorDataset(POINTS, torch.randn(60)),
        TensorDataset(POINTS, torch.eye(3)[LABELS]),
        Rows(lambda i: POINTS[i]),
        Rows(lambda i: (POINTS[i], POINTS[i])),
        Rows(lambda i: {"x": POINTS[i]}),
        Rows(lambda i: {"x": POINTS[i], "label": "yes"}),
    ],
)
def test_data_without_class_labels_has_none_and_still_a_table(dataset):
    data = FederatedDataModule(Plain(lambda: DataLoader(dataset)), clients=4)
    data.setup("fit")
    data.federate(0)
    assert data.labels() is None
    assert data.partition_table().splitlines()[0].split() == ["client", "examples"]


def test_the_options_of_the_training_loader_are_kept():
    def collate(rows):
        return rows

    def worker_init(worker):
        return None

    inner = Plain(
        lambda: DataLoader(
            TensorDataset(POINTS, LABELS),
            batch_size=7,
            collate_fn=collate,
            num_workers=2,
            drop_last=True,
            shuffle=True,
            worker_init_fn=worker_init,
        )
    )
    data = FederatedDataModule(inner)
    data.setup("fit")
    options = data.loader
    assert (options.batch_size, options.num_workers, options.drop_last) == (7, 2, True)
    assert options.collate_fn is collate
    assert options.worker_init_fn is worker_init


def test_hooks_go_to_the_inner_datamodule_and_only_those_it_has():
    loader = lambda: DataLoader(TensorDataset(POINTS, LABELS))  # noqa: E731
    plain, moving = FederatedDataModule(Plain(loader)), FederatedDataModule(Moving(loader))
    for name in DELEGATED:
        for wrapped in (plain, moving):
            assert is_overridden(name, wrapped) == is_overridden(name, wrapped.inner), name
    assert is_overridden("transfer_batch_to_device", moving)
    assert not is_overridden("transfer_batch_to_device", plain)
    assert moving.state_dict() == {"where": 3}
    assert plain.num_classes == 3
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = plain.no_such_name


class Probe(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def validation_step(self, batch, _):
        self.log("loss", torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1]))


def test_a_trainer_validates_through_the_wrapper():
    inner = Moving(lambda: DataLoader(TensorDataset(POINTS, LABELS)))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.validate(Probe(), FederatedDataModule(inner), verbose=False)
    assert inner.asked == [
        "prepare",
        ("setup", "validate", trainer),
        "val",
        "transfer",
        "transfer",
    ]


def test_the_validation_loader_is_made_once_a_fit():
    data = FederatedDataModule(Plain(lambda: DataLoader(TensorDataset(POINTS, LABELS))))
    data.setup("fit")
    first = data.val_dataloader()
    assert data.val_dataloader() is first
    data.setup("fit")
    assert data.val_dataloader() is not first


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


TENSORS = TensorDataset(POINTS, LABELS)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: [DataLoader(TENSORS)], "one torch DataLoader, not list"),
        (lambda: DataLoader(Stream()), "Stream, which has no length"),
        (lambda: DataLoader(TENSORS, batch_size=None), "give the DataLoader a batch_size"),
        (lambda: DataLoader(TENSORS, batch_sampler=[[0, 1]]), "makes batches with list"),
        (
            lambda: DataLoader(TENSORS, sampler=WeightedRandomSampler([1.0] * 60, 60)),
            "draws with WeightedRandomSampler",
        ),
        (
            lambda: DataLoader(TENSORS, sampler=RandomSampler(TENSORS, num_samples=9)),
            "draws with RandomSampler",
        ),
    ],
)
def test_loaders_that_cannot_be_divided_are_refused(loader, message):
    with pytest.raises(ConfigError, match=message):
        FederatedDataModule(Plain(loader)).setup("fit")


def test_the_twin_namespace_is_named():
    import pytorch_lightning

    class Twin(pytorch_lightning.LightningDataModule):
        pass

    with pytest.raises(ConfigError, match=r"import LightningDataModule from lightning\.pytorch"):
        FederatedDataModule(Twin())
    with pytest.raises(ConfigError, match="wraps a lightning"):
        FederatedDataModule(DataLoader(TENSORS))
