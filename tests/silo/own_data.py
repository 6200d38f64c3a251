"""Data of one client alone, such as a silo has."""

from __future__ import annotations

from torch.utils.data import Subset

from fedtt_lightning import FederatedDataModule
from fedtt_lightning.data import BySize
from toy import ToyData


class PartOfToyData(ToyData):
    """What a client of the toy run has, and the whole for validation."""

    def __init__(self, client: int) -> None:
        super().__init__()
        self.client = client

    def setup(self, stage: str) -> None:
        data = FederatedDataModule(ToyData(), clients=4, partition=BySize([1, 2, 3, 5]))
        data.setup("fit")
        data.federate(11)
        self.train = Subset(data.train_data, data.clients[self.client].tolist())
