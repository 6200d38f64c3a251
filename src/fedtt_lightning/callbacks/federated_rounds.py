"""Federated rounds inside Lightning's own loop: one trainer epoch is one communication round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from fedtt_lightning.callbacks.agreement import check_processes
from fedtt_lightning.callbacks.build import check_federation, make_loop, make_planner
from fedtt_lightning.callbacks.checkpoint_io import SafeCheckpointIO
from fedtt_lightning.callbacks.checks import check_fit, check_writable
from fedtt_lightning.callbacks.exchange import Exchange, VisitResult
from fedtt_lightning.callbacks.lanes import choose_exchange
from fedtt_lightning.callbacks.one_by_one import OneByOne
from fedtt_lightning.callbacks.parts import client_data
from fedtt_lightning.callbacks.round_end import coming_plan, end_round, open_round, run_empty_epoch
from fedtt_lightning.callbacks.round_loss import RoundLoss
from fedtt_lightning.callbacks.run_state import (
    check_savable,
    keep_weights_global,
    load_gradients,
    load_run,
    save_run,
)
from fedtt_lightning.callbacks.side_by_side import SideBySide
from fedtt_lightning.callbacks.side_by_side_checks import side_by_side_problems
from fedtt_lightning.callbacks.upload import UploadChannel
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import (
    AggregationRule,
    ClientFailures,
    ClientRanks,
    ClientSampler,
    FedAvg,
    FederatedLoop,
    RoundPlanner,
    ServerOptimizer,
    UniformSampler,
    UploadCodec,
    WeightedMean,
    Weighting,
)


class FederatedRounds(Callback):
    """Trains clients in turn, or side by side, and averages their updates once per epoch.

    Every trainable parameter of the LightningModule is federated. At a client's first batch the
    global parameters are written into the model and the optimizer starts afresh; after its last
    batch the update is taken; after the round's last batch the updates are aggregated, so that
    validation, checkpoints and early stopping see the global model. All randomness is seeded by
    (experiment, round, client, step). The datamodule must be a `ClientDataModule`. Buffers are not
    federated. Schedulers start afresh at each visit, so give them the steps of a visit:
    `trainer.estimated_stepping_batches` counts the whole run.

    Other callbacks may define `private_names(names)` (which tensors stay with each client),
    `federation_problems(trainer, module)` (lines on what they cannot work with),
    `on_plan(trainer, module, planner)` (may return a new planner),
    `on_round_start(trainer, module, plan)`, `on_client_start(trainer, module, visit, resumed)`,
    `on_client_trained(trainer, module, visit)` (the weights are still the client's) and
    `client_extra(trainer, module, visit)` (see `VisitResult`), both only where the visit trains,
    `on_client_update(trainer, module, visit, update)` (may return a new update),
    `on_client_end(trainer, module, visit)`, `on_aggregate(trainer, module, old, new)` and
    `on_round_end(trainer, module, plan)`, which also a skipped round calls.

    Logged at each round's end: `fed/train_loss` (mean loss of the clients, weighted by their
    examples), `fed/clients` (updates aggregated), `fed/clients_rejected` (left out because of NaN
    or Inf), and with `failures` `fed/clients_dropped` and `fed/clients_late`. A skipped round is an
    epoch without a batch: validated, logged and saved like any other.

    With `cohort_batch` N, visits train N at a time side by side: batches of all go through one
    forward pass, each client with its own parameters, optimizer state, schedule, clipping and
    dropout. The outcome is that of one after another, to rounding; see docs/methods.md.

    Args:
        sampler: which clients take part in a round; all of them if not given.
        local_epochs: passes of a client over its data in a round.
        local_steps: optimizer steps of a client in a round, in place of `local_epochs`.
        aggregation: how a round's updates become one; their weighted mean if not given.
        server: how that moves the global parameters; plain averaging if not given.
        weighting: a client weighs its number of `examples`, or each the same (`equal`), as it
            should where the sampler already prefers large clients.
        ranks: TT or LoRA rank of each client; the adapter's own if not given.
        upload: how clients write their updates; as they are, in the model's dtype, if not given.
        failures: simulated dropouts and stragglers; none if not given.
        min_clients: updates that a round needs.
        below_min_clients: `skip` a round that has fewer (nothing changes, but it counts as a
            round), or `fail`.
        cohort_batch: clients that train side by side, or `auto`: as many as is found fastest.
        seed: key of the experiment; the number given to `seed_everything` (0 without) if not given.

    Raises:
        ConfigError: from `setup`, with one line for everything that cannot be federated.
        FederationError: a round in which no client's update is finite.
    """

    def __init__(
        self,
        sampler: ClientSampler | None = None,
        local_epochs: int = 1,
        local_steps: int | None = None,
        aggregation: AggregationRule | None = None,
        server: ServerOptimizer | None = None,
        weighting: Weighting = "examples",
        ranks: ClientRanks | None = None,
        upload: UploadCodec | None = None,
        failures: ClientFailures | None = None,
        min_clients: int = 1,
        below_min_clients: Literal["skip", "fail"] = "skip",
        cohort_batch: int | Literal["auto"] = 1,
        seed: int | None = None,
    ) -> None:
        self.sampler = sampler or UniformSampler()
        self.local_epochs = local_epochs
        self.local_steps = local_steps
        self.aggregation = aggregation or WeightedMean()
        self.server = server or FedAvg()
        self.weighting: Weighting = weighting
        self.ranks = ranks
        self.upload = upload
        self.failures = failures
        self.min_clients = min_clients
        self.below_min_clients: Literal["skip", "fail"] = below_min_clients
        self.cohort_batch: int | Literal["auto"] = cohort_batch
        self.seed = seed
        self.exchange: Exchange | None = None
        self.results: list[VisitResult] = []
        self.extra: dict[str, Tensor] = {}  # of the visit whose end is being dealt with
        self._planner: RoundPlanner | None = None
        self._loop: FederatedLoop | None = None
        self.channel = UploadChannel()
        self._training: OneByOne | SideBySide | None = None
        self.loss = RoundLoss()
        self._metrics: dict[str, Tensor] = {}
        self._saved: dict[str, Any] | None = None

    @property
    def loop(self) -> FederatedLoop:
        """The federation's state; there from `on_fit_start` on."""
        assert self._loop is not None, "FederatedRounds has no state before fit starts"
        return self._loop

    @property
    def training(self) -> OneByOne | SideBySide:
        """How visits are trained; there while `fit` runs."""
        assert self._training is not None, "FederatedRounds trains nobody before fit starts"
        return self._training

    def federation_problems(self, trainer: Trainer, module: LightningModule) -> Iterator[str]:
        """Give a line for everything that clients side by side cannot work with."""
        return side_by_side_problems(self, trainer, module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = SafeCheckpointIO()
        if stage != "fit":
            return
        self._loop = self._saved = None  # of an earlier fit
        self._metrics = {}
        check_fit(trainer, pl_module)
        choose_exchange(self, trainer)
        self._planner = make_planner(self, trainer, pl_module)
        if not any(is_overridden(hook, pl_module) for hook in ("setup", "configure_model")):
            check_federation(self, self._planner, trainer, pl_module)  # or else in on_fit_start
        client_data(trainer).plan = lambda: coming_plan(self, trainer)
        trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_writable(trainer)
        assert self._planner is not None
        check_federation(self, self._planner, trainer, pl_module)
        self._loop = make_loop(self, self._planner, trainer, pl_module)
        self.loss = RoundLoss()
        kind = OneByOne if self.cohort_batch == 1 else SideBySide
        self._training = kind(self, trainer, pl_module)
        saved = self._saved or {}
        self._planner = self._training.open(saved.get("training"))
        if saved:
            load_run(saved, self._loop, self.loss, self.exchange)
        check_processes(self, trainer)
        self.channel = UploadChannel.open(self.upload, trainer, self._loop, saved.get("upload"))
        if trainer.is_global_zero:
            print(client_data(trainer).partition_table(), flush=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        saved, self._saved = self._saved, None
        if saved is not None:
            load_gradients(saved, self.loop)
            trainer.callback_metrics.update(self._metrics)
        self.training.start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run a round at once in which nobody trains here: the loader gives it no batch."""
        if not self.loop.is_open and not coming_plan(self, trainer).visits:
            run_empty_epoch(self, trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        loop = self.loop
        if not loop.is_open:
            open_round(self, trainer, pl_module)
        if loop.position != batch_idx or loop.round != trainer.current_epoch:
            raise FederationError(
                f"the federation is at batch {loop.position} of round {loop.round}, but the "
                f"trainer at batch {batch_idx} of epoch {trainer.current_epoch}"
            )
        self.training.begin_batch(trainer, pl_module, batch)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        self.training.end_batch(trainer, pl_module, loss)
        if (plan := self.loop.local) is not None and self.loop.position == plan.num_batches:
            end_round(self, trainer, pl_module)
            self._planner = self.training.end_round()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loop is not None:
            self._loop.park()

    on_validation_start = on_train_end

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_end(trainer, pl_module)
        if self.exchange is not None:
            self.exchange.end_epoch(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.on_train_end(trainer, pl_module)
        if self._training is not None:
            client_data(trainer).close_loader()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._training is not None:
            client_data(trainer).close_loader()
            self._training.close(trainer)
            self._training = None
        if self.exchange is not None:
            self.exchange.close(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.training and self.state_key not in checkpoint.get("callbacks", {}):
            raise ConfigError(
                f"{trainer.ckpt_path} was not written by a federated run and cannot be resumed"
            )
        # What other callbacks monitor, should the coming round log nothing: it may be skipped.
        self._metrics = checkpoint.get("fedtt_metrics", {})

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._loop is not None:
            check_savable(self._loop, self.exchange)
            keep_weights_global(self._loop, pl_module, checkpoint)
            self.channel.note_checkpoint(self._loop)
            checkpoint["fedtt_metrics"] = dict(trainer.callback_metrics)

    def state_dict(self) -> dict[str, Any]:
        if self._loop is None:
            return {}
        return save_run(self._loop, self.loss) | {
            "upload": self.channel.state_dict(),
            "training": self._training and self._training.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict or None

    def log_round(self, module: LightningModule, name: str, value: float) -> None:
        """Log a number of the whole round, exact as float64 (byte counts exceed float32)."""
        number = torch.tensor(value, dtype=torch.float64)
        module.log(name, number, on_step=False, on_epoch=True, batch_size=1)


def find_federation(trainer: Trainer) -> FederatedRounds:
    """Return the trainer's FederatedRounds callback, or raise ConfigError if it has none."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, FederatedRounds):
            return callback
    raise ConfigError("trainer.callbacks has no FederatedRounds, which other callbacks here need")
