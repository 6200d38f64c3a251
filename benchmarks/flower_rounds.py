"""A federated round by Flower, for peer_rounds.py: a ServerApp with FedAvg and a ClientApp.

A module of its own, which Ray's processes import: what lies in a script they get copied with each
message, and could not keep.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

from encoders import fedtt
from federated_round import CLIENTS, COHORT, ROUNDS, SIZE, loss, trained
from peer_visits import cohort, cpu_seconds, per_round, prepared, visit


@cache
def kept(batch: int) -> tuple[Any, Any]:
    """Return a client's model and data, once in a process."""
    return fedtt(SIZE), prepared(batch)


def train(message: Any, context: Any, batch: int, keep: bool) -> Any:
    """Answer a message of Flower: one client's local epoch."""
    import torch
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

    torch.set_num_threads(1)
    config, (model, texts) = message.content["config"], kept(batch)
    if not keep:
        model = fedtt(SIZE)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=False)
    params = trained(model)
    optimizer = torch.optim.AdamW(params.values(), lr=1e-3, fused=True)
    ids, labels = visit(texts, config["server-round"] - 1, config["client"])
    for start in range(0, len(ids), batch):
        optimizer.zero_grad()
        loss(model, ids[start : start + batch], labels[start : start + batch]).backward()
        optimizer.step()
    content = {
        "arrays": ArrayRecord(params),
        "metrics": MetricRecord({"num-examples": len(ids)}),
    }
    return Message(RecordDict(content), reply_to=message)


def flower(batch: int, keep: bool) -> tuple[float, dict[str, Any]]:
    """Return CPU seconds of a round by Flower, the median of a run, and the adapter."""
    for name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
        os.environ[name] = "0"
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    marks: list[float] = []
    results: list[Any] = []

    class OfCohort(FedAvg):
        """FedAvg whose messages name the clients to train, as Flower's own choice has no key."""

        def configure_train(self, server_round: int, *arguments: Any) -> Any:
            messages = super().configure_train(server_round, *arguments)
            for message, client in zip(messages, cohort(server_round - 1), strict=True):
                config = ConfigRecord({**message.content["config"], "client": client})
                message.content = RecordDict({**message.content, "config": config})
            return messages

    server, clients = ServerApp(), ClientApp()

    @server.main()
    def run(grid: Any, context: Any) -> None:
        strategy = OfCohort(
            fraction_train=COHORT / CLIENTS, fraction_evaluate=0.0, min_available_nodes=CLIENTS
        )
        results.append(
            strategy.start(
                grid,
                ArrayRecord(trained(fedtt(SIZE))),
                num_rounds=ROUNDS,
                evaluate_fn=lambda *_: marks.append(cpu_seconds()),  # before them and after each
            )
        )

    @clients.train()
    def answer(message: Any, context: Any) -> Any:
        return train(message, context, batch, keep)

    resources = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 1}}
    run_simulation(server, clients, num_supernodes=CLIENTS, backend_config=resources)
    return per_round(marks), results[0].arrays.to_torch_state_dict()
