"""What lies between two clients: writing the global adapter, and optimizers that start afresh.

    python benchmarks/between_clients.py

Inside a run of FedTT r = 5 on a BERT-base shape with AdamW, at a client's first batch: what
FederatedRounds does there before any of it is trained, in CPU time. The optimizer holds state of
the client before.
"""

from __future__ import annotations

import statistics
import time
from tempfile import TemporaryDirectory
from typing import Any

from encoders import BERT_BASE, fedtt, inputs
from timing import Row, main


def measure(repeats: int) -> list[Row]:
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch.utils.data import TensorDataset

    from fedtt_lightning import FederatedRounds
    from fedtt_lightning.data import ClientDataModule, LoaderOptions

    class Texts(ClientDataModule):
        def setup(self, stage: str) -> None:
            batch = inputs(4)
            self.train_data = TensorDataset(batch["input_ids"][:, :8], batch["labels"])
            self.loader = LoaderOptions(2)

        def labels(self) -> Any:
            return self.train_data.tensors[1].numpy()

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = fedtt(BERT_BASE)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.model(input_ids=batch[0], labels=batch[1]).loss

        def configure_optimizers(self) -> Any:
            trained = [p for p in self.parameters() if p.requires_grad]
            return torch.optim.AdamW(trained, lr=1e-3, fused=True)

    found: list[float] = []

    class Again(Callback):
        """Does what a client's first batch does, many times over, before the second client's."""

        def on_client_start(self, trainer: Any, module: Any, visit: Any, resumed: bool) -> None:
            federation = trainer.callbacks[0]
            if federation.loop.position == 0:
                return
            optimizer = trainer.optimizers[0]
            for _ in range(repeats):
                for parameter in federation.loop.tensors.values():
                    zeros = torch.zeros_like(parameter)
                    optimizer.state[parameter] = {"exp_avg": zeros, "exp_avg_sq": zeros.clone()}
                start = time.process_time()
                federation.loop.open_visit()
                federation.training._reset.apply()
                found.append(1e3 * (time.process_time() - start))

    with TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=[FederatedRounds(), Again()],
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
        )
        trainer.fit(Classifier(), datamodule=Texts(2))
    low, middle, high = statistics.quantiles(found, n=4)
    what = "optimizer and adapter reset between clients, BERT-base shape"
    return [Row(what, "–", middle, low, high, 1.0, "ms")]


if __name__ == "__main__":
    main(__doc__, measure, repeats=50)
