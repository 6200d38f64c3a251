"""A federated round by pfl and by Flower, against the bare loop of federated_round.py.

    python benchmarks/peer_rounds.py

The same clients train on the same batches as there, and it is checked that all end with the same
adapter. pfl (Apple's pfl-research): FederatedAveraging on a SimulatedBackend, in this process.
Flower: a ServerApp with FedAvg and a ClientApp under run_simulation, with one Ray actor; a client
loads the global adapter into a model that it builds for each message, as Flower's examples do, or
that its process keeps. CPU time is that of the process and of all below it; starts do not count,
but Flower's make a turn last two minutes or more.

Peers that are not installed are left out; the last line of the table says which. Both pin older
packages than constraints.txt has, so they need an environment of their own:

    python -m venv .venv-peers
    .venv-peers/bin/pip install torch==2.13.0 -e . "pfl[pytorch]==0.6.0" "flwr[simulation]==1.41.0"
    .venv-peers/bin/python benchmarks/peer_rounds.py
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from encoders import fedtt
from federated_round import BATCHES, COHORT, EXAMPLES, ROUNDS, SIZE, TOKENS, bare, loss, trained
from flower_rounds import flower
from peer_visits import cohort, cpu_seconds, per_round, prepared, visit
from timing import Row, main, ratio


def pfl(batch: int) -> tuple[float, dict[str, Any]]:
    """Return CPU seconds of a round by pfl, the median of a run, and the adapter."""
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics, Weighted
    from pfl.model.pytorch import PyTorchModel

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = fedtt(SIZE)

        def loss(self, ids: Any, labels: Any) -> Any:
            return loss(self.model, ids, labels)

        @torch.no_grad()
        def metrics(self, ids: Any, labels: Any) -> dict[str, Any]:
            return {"loss": Weighted(len(ids) * self.loss(ids, labels).item(), len(ids))}

    marks: list[float] = []

    class Watch(TrainingProcessCallback):
        def on_train_begin(self, *, model: Any) -> Any:
            marks.append(cpu_seconds())
            return Metrics()

        def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Any]:
            marks.append(cpu_seconds())
            return False, Metrics()

    texts, made = prepared(batch), Classifier()
    users = iter([(round, client) for round in range(ROUNDS) for client in cohort(round)])
    clients = FederatedDataset(
        lambda user: PyTorchTensorDataset(visit(texts, *user)), lambda: next(users)
    )
    params = trained(made.model)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=ROUNDS,
            evaluation_frequency=ROUNDS,  # the first round, which is not counted, is evaluated
            train_cohort_size=COHORT,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=clients, val_data=clients),
        PyTorchModel(
            made,
            local_optimizer_create=lambda parameters, lr: torch.optim.AdamW(
                parameters, lr=lr, fused=True
            ),
            central_optimizer=torch.optim.SGD(params.values(), lr=1.0),
        ),
        NNTrainHyperParams(local_batch_size=batch, local_num_epochs=1, local_learning_rate=1e-3),
        callbacks=[Watch()],
        send_metrics_to_platform=False,
    )
    return per_round(marks), params


def measure(repeats: int) -> list[Row]:
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    peers: dict[str, Callable[[int], tuple[float, dict[str, Any]]]] = {}
    if find_spec("pfl"):
        peers["pfl"] = pfl
    if find_spec("flwr") and find_spec("ray"):
        peers["Flower, model built for each message"] = lambda batch: flower(batch, keep=False)
        peers["Flower, model kept by the process"] = lambda batch: flower(batch, keep=True)
    rows = []
    for batch in BATCHES if peers else ():
        times: dict[str, list[float]] = {name: [] for name in ("bare", *peers)}
        for _ in range(repeats):
            seconds, expected = bare(batch)
            times["bare"].append(seconds)
            for name, peer in peers.items():
                seconds, adapter = peer(batch)
                times[name].append(seconds)
                torch.testing.assert_close(dict(adapter), expected, rtol=0, atol=1e-5)
        what = f"federated round of {COHORT} clients × {EXAMPLES}, 2 layers × 128, FedTT r=5"
        against = f"bare loop, batches of {batch} × {TOKENS}"
        rows += [ratio(times, name, "bare", f"{what}: {name}", against) for name in peers]
    return rows


if __name__ == "__main__":
    main(__doc__, measure, repeats=3)
