"""A federation as Flower's examples have it, for silo_rounds.py: all of a visit in each message."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, Subset

from fedtt_lightning import BuiltinText, SequenceClassifier, TTAdapterConfig

server = ServerApp()
client = ClientApp()


def model() -> SequenceClassifier:
    peft = TTAdapterConfig(rank=4, bottleneck=16, tt_classifier=True)
    return SequenceClassifier(backbone="builtin", lr=1e-2, peft=peft)


def trained(module: SequenceClassifier) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


class Clock(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: SequenceClassifier) -> None:
        self.begin = time.time()

    def on_train_end(self, trainer: Trainer, pl_module: SequenceClassifier) -> None:
        self.seconds = time.time() - self.begin


@client.train()
def train(message: Message, context: Context) -> Message:
    config = context.node_config
    data = BuiltinText(train_size=int(config["texts"]), clients=1)
    data.setup("fit")
    own = Subset(data.train_data, range(int(config["silo"]), int(config["texts"]), config["silos"]))
    loader = DataLoader(own, batch_size=32, shuffle=True, collate_fn=data.loader.collate_fn)
    module, clock = model(), Clock()
    module.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=1, accelerator="cpu", callbacks=[clock], **quiet).fit(module, loader)
    metrics = {"num-examples": len(own), "seconds": clock.seconds}
    content = {"arrays": ArrayRecord(trained(module)), "metrics": MetricRecord(metrics)}
    return Message(RecordDict(content), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    ends: list[float] = []
    slowest: list[float] = []

    def slow(records: list[RecordDict], weighted_by: str) -> MetricRecord:
        slowest.append(max(float(record["metrics"]["seconds"]) for record in records))
        return MetricRecord({"seconds": slowest[-1]})

    silos, rounds = int(context.run_config["silos"]), int(context.run_config["rounds"])
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=silos,
        min_available_nodes=silos,
        train_metrics_aggr_fn=slow,
    )
    strategy.start(
        grid,
        ArrayRecord(trained(model())),
        num_rounds=rounds,
        evaluate_fn=lambda *_: ends.append(time.time()),  # before them and after each
    )
    lines = zip(ends, ends[1:], slowest, strict=False)
    file = Path(str(context.run_config["marks"]))
    partial = file.with_name(".marks")
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    partial.replace(file)
