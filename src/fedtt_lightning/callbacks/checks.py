"""What a Trainer, module and datamodule must look like to be federated; all complaints at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.nn.modules.batchnorm import SyncBatchNorm, _NormBase

from fedtt_lightning.callbacks.lightning_private import saves_inside_rounds, stops_inside_rounds
from fedtt_lightning.callbacks.parts import (
    freezing_schedules,
    silo_of,
    trainable_parameters,
    with_hook,
)
from fedtt_lightning.data.client_data import ClientDataModule
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import FreezingSchedule


def check_fit(trainer: Trainer, module: LightningModule) -> None:
    """Raise one ConfigError with a line for each thing that cannot be federated."""
    problems = [
        *_twins(trainer, module),
        *_data(trainer),
        *_trainer(trainer),
        *_callbacks(trainer),
    ]
    if silo_of(trainer).count > 1:
        problems += _silos(trainer)
    for callback in with_hook(trainer, "federation_problems"):
        problems += callback.federation_problems(trainer, module)
    if problems:
        raise ConfigError("\n".join(problems))


def _twins(trainer: Trainer, module: LightningModule) -> Iterator[str]:
    parts = [trainer, module, *trainer.callbacks, *trainer.loggers]  # type: ignore[attr-defined]
    if (data := _datamodule(trainer)) is not None:
        parts += [data, getattr(data, "inner", None)]
    for part in parts:
        if any(base.__module__.split(".")[0] == "pytorch_lightning" for base in type(part).__mro__):
            yield (
                f"{type(part).__name__} comes from pytorch_lightning, which is not the same as "
                "lightning: import it from lightning.pytorch"
            )


def _data(trainer: Trainer) -> Iterator[str]:
    data = _datamodule(trainer)
    if data is None:
        yield (
            "FederatedRounds needs a datamodule that knows its clients: pass "
            "datamodule=FederatedDataModule(your_datamodule, clients=...) to trainer.fit"
        )
    elif not isinstance(data, ClientDataModule):
        yield (
            f"{type(data).__name__} does not know its clients: wrap it as "
            f"FederatedDataModule({type(data).__name__}(...), clients=...)"
        )
    elif not hasattr(data, "loader"):
        yield (
            f"{type(data).__name__} has set no `loader` and `train_data`, which a ClientDataModule "
            'does in setup("fit"): name a class that does, such as fedtt_lightning.GlueData'
        )
    elif data.loader.group_by_length and not hasattr(data.train_data, "lengths"):
        yield (
            f"data.group_by_length needs the length of each example, but the training data is a "
            f"{type(data.train_data).__name__} without an array `lengths`: turn it off"
        )


def _trainer(trainer: Trainer) -> Iterator[str]:
    if trainer.val_check_interval != 1.0:
        yield (
            f"trainer.val_check_interval is {trainer.val_check_interval}, but must be 1.0: the "
            "global adapter exists only at the end of a round"
        )
    if trainer.check_val_every_n_epoch is None:
        yield "trainer.check_val_every_n_epoch must be a number of rounds, not null"
    limit = trainer.limit_train_batches
    if isinstance(limit, float) and limit != 1.0:
        yield (
            f"trainer.limit_train_batches is {limit}, but must be 1.0 or a whole number of "
            "batches of a round"
        )
    strategy = trainer.strategy
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        yield (
            f"trainer.strategy {type(strategy).__name__} is not supported: use auto, ddp, "
            "silo_ddp or, for a model larger than one GPU, "
            "fedtt_lightning.strategies.ShardedBackbone, which keep the whole adapter in every "
            "process"
        )


def _callbacks(trainer: Trainer) -> Iterator[str]:
    if len(freezing_schedules(trainer)) > 1:
        yield "trainer.callbacks holds more than one FactorFreezing: leave one"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = type(callback).__name__
        if isinstance(callback, (StochasticWeightAveraging, WeightAveraging)):
            yield f"{name} in trainer.callbacks would average across clients: remove it"
        if (
            isinstance(callback, GradientAccumulationScheduler)
            and callback.going_to_accumulate_grad_batches()
        ):
            yield f"{name} changes accumulation by round: set trainer.accumulate_grad_batches"
        if isinstance(callback, ModelCheckpoint) and saves_inside_rounds(callback):
            yield (
                f"{name} in trainer.callbacks saves by steps or time, which may fall on a round's "
                "last batch: use FederatedCheckpoint with every_n_visits"
            )


def _silos(trainer: Trainer) -> Iterator[str]:
    """Give a line for what stops, saves or carries over inside a round: silos train others."""
    if trainer.max_steps != -1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        yield "trainer.max_steps ends inside a round, which silos cannot: use trainer.max_epochs"
    if trainer.precision == "16-mixed":
        yield (
            "trainer.precision is 16-mixed, whose scale of losses goes from client to client, and "
            "so would depend on silos: use bf16-mixed or 32-true"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = type(callback).__name__
        if isinstance(callback, Timer) and stops_inside_rounds(callback):
            yield (
                "trainer.max_time or a Timer stops inside a round, which silos cannot: use a Timer "
                "with interval epoch"
            )
        saves = isinstance(callback, ModelCheckpoint) and callback.save_on_exception
        if saves or isinstance(callback, OnExceptionCheckpoint):
            yield (
                f"{name} in trainer.callbacks saves on exceptions, which may fall inside a round, "
                "where no silo knows what others train: leave that out"
            )


def check_module(module: LightningModule, schedule: FreezingSchedule, silos: int = 1) -> None:
    """Raise ConfigError if the module as it now is cannot be federated, over so many silos."""
    for name, part in module.named_modules():
        if isinstance(part, SyncBatchNorm) and part.training and silos > 1:
            raise ConfigError(
                f"{name} is a SyncBatchNorm, which averages over all processes, while silos train "
                "other clients: put it into eval mode or use GroupNorm or LayerNorm"
            )
        if isinstance(part, _NormBase) and part.track_running_stats and part.training:
            raise ConfigError(
                f"{name} is a {type(part).__name__} whose running statistics would leak from "
                "client to client: put it into eval mode or use GroupNorm or LayerNorm"
            )
    names = tuple(trainable_parameters(module))
    if not names:
        raise ConfigError(
            "the model has no trainable parameter: set model.peft, or leave something unfrozen"
        )
    schedule.check(names)


def _datamodule(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def check_writable(trainer: Trainer) -> None:
    """Raise ConfigError if checkpoints or logs could not be written when the time comes."""
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    folders: dict[str, list[Any]] = {
        "the checkpoint callback's dirpath": [
            callback.dirpath
            for callback in trainer.checkpoint_callbacks
            if isinstance(callback, ModelCheckpoint)
        ],
        "the logger's folder": [logger.save_dir for logger in trainer.loggers],
    }
    for key, paths in folders.items():
        for path in paths:
            if path is None or "://" in str(path):
                continue
            try:
                Path(path).mkdir(parents=True, exist_ok=True)
                TemporaryFile(dir=path).close()
            except OSError as error:
                raise ConfigError(
                    f"cannot write to {path} ({error.strerror}): change {key} or "
                    "trainer.default_root_dir"
                ) from None
