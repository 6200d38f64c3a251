"""How well each client is served, on examples of its own that nobody trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from fedtt_lightning.callbacks.client_scores import client_scores
from fedtt_lightning.callbacks.csv_file import write_csv
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.parts import client_data
from fedtt_lightning.data.client_data import ClientDataModule
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import RoundPlan, generator_for


class ClientEvaluation(Callback):
    """Evaluates each client on its held-out examples after every n-th round and the last.

    The module's `score(batch) -> Tensor (B,)` says how good each example's prediction is, higher is
    better; a client's score is its mean: of classes and of candidates the share of right choices.
    Logged are `client/global_mean`, the mean over clients of the global adapter's scores, each
    client counting once, and `client/global_worst_decile`, the mean of the worst tenth of them
    (rounded up). With `Personalization` there are also `client/personal_mean` and
    `client/personal_worst_decile`, of the global adapter (at the client's rank) with the client's
    own tensors in it; a client that never trained has the initial ones, which are also those of the
    global scores. The last scores of each client lie in `clients.csv` in `default_root_dir`.

    Needs `data.client_holdout`. Model, random generators and training are as if nothing had
    happened. Several processes share the clients.

    Args:
        every_n_rounds: rounds from one evaluation to the next.
        clients: evaluate only so many, drawn once for the whole run; all if not given.
        batch_size: examples of a batch; that of training if not given.

    Raises:
        ConfigError: from `setup`, if there are no held-out examples or there is no `score`.
    """

    def __init__(
        self, every_n_rounds: int = 1, clients: int | None = None, batch_size: int | None = None
    ) -> None:
        settings = {"every_n_rounds": every_n_rounds, "clients": clients, "batch_size": batch_size}
        for name, value in settings.items():
            if value is not None and value < 1:
                raise ConfigError(f"ClientEvaluation's {name} is {value}, but must be >= 1")
        self.every_n_rounds = every_n_rounds
        self.clients = clients
        self.batch_size = batch_size
        self.round = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        find_federation(trainer)
        self.round = -1
        if not callable(getattr(pl_module, "score", None)):
            raise ConfigError(
                f"ClientEvaluation needs to know how good a prediction is: define score(self, "
                f"batch) in {type(pl_module).__name__}, which returns a tensor (B,) with a number "
                "for each example, higher is better, such as 1.0 where it is right, else 0.0"
            )
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, ClientDataModule) and not (data.client_holdout or data.held_out):
            raise ConfigError(
                "ClientEvaluation needs examples that clients do not train on: set "
                "data.client_holdout to their share, such as 0.2"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = client_data(trainer)
        known = data.num_clients
        if self.clients is not None and self.clients > known:
            raise ConfigError(
                f"ClientEvaluation's clients is {self.clients}, but there are {known}: lower it, "
                "or leave it out to evaluate all"
            )
        data.evaluation_examples()  # what cannot be evaluated is to be said before training

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        """Evaluate the global adapter, which is in the model now, and log the scores."""
        rounds = plan.round + 1
        if rounds % self.every_n_rounds and rounds != trainer.max_epochs:
            return
        federation = find_federation(trainer)
        data = client_data(trainer)
        assert data.held_out is not None
        clients = np.arange(len(data.held_out))
        if self.clients is not None:
            rng = generator_for(federation.loop.planner.experiment, "client evaluation")
            clients = np.sort(rng.choice(clients, self.clients, replace=False))
        size = self.batch_size or data.loader.batch_size
        scores = client_scores(trainer, pl_module, clients, size)
        for kind, values in scores.items():
            federation.log_round(pl_module, f"client/{kind}_mean", float(values.mean()))
            federation.log_round(pl_module, f"client/{kind}_worst_decile", worst_decile(values))
        self.round = plan.round
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            columns = [clients, data.held_out.sizes[clients], *scores.values()]
            rows = zip(*(column.tolist() for column in columns), strict=True)
            path = Path(trainer.default_root_dir) / "clients.csv"
            write_csv(path, ("client", "examples", *scores), rows)


def worst_decile(scores: np.ndarray) -> float:
    """Return the mean of the worst tenth of some scores (n,), of at least one; NaN if one is."""
    worst = np.sort(scores)[: -(-len(scores) // 10)]
    return float("nan") if np.isnan(scores).any() else float(worst.mean())
