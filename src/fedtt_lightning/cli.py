"""The command line: LightningCLI with the federation's keys, and errors of one line."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from fedtt_lightning.callbacks import FederatedRounds, PredictionFile
from fedtt_lightning.callbacks.lanes import is_lost_process
from fedtt_lightning.cli_errors import one_line
from fedtt_lightning.cli_logging import RunConfig, default_logger
from fedtt_lightning.errors import ConfigError, FedTTError
from fedtt_lightning.modules import CausalLM, SequenceClassifier  # noqa: F401 - bare names
from fedtt_lightning.strategies import ShardedBackbone, SiloDDPStrategy  # noqa: F401 - bare names

_COMMANDS = ("fit", "validate", "test", "predict")
_NOT_OURS = (  # warnings and tips of the libraries below that a user cannot act on
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*does not have many workers.*",
    r".*`loftq_config` specified but will be ignored.*",
    r".*`is_gradient_checkpointing` is deprecated.*",
    r".*`tensorboardX` has been removed as a dependency.*",
    r".*smaller than the logging interval.*",
    r".*`self.log\('(comm|fed)/.*sync_dist=True.*",  # the same on every rank
    r".*Checkpoint directory .* exists and is not empty.*",
)


class FederatedCLI(LightningCLI):
    """LightningCLI with the keys `federation` (FederatedRounds) and `predictions`.

    The model learns `num_labels` and `task` from the data, and the data take their tokenizer from
    the model's backbone, where the classes named in the config have such arguments.

    Raises:
        ConfigError: the arguments or config files cannot be used; one line that names the key.
    """

    def __init__(self, args: list[str]) -> None:
        quiet: dict[str, Any] = {"exit_on_error": False}
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=RunConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "prog": "python -m fedtt_lightning",
                **quiet,
                **{command: dict(quiet) for command in _COMMANDS},
            },
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(FederatedRounds, "federation")
        parser.add_lightning_class_args(PredictionFile, "predictions")
        parser.link_arguments("model.init_args.backbone", "data.init_args.tokenizer")
        parser.link_arguments(
            "data.num_labels", "model.init_args.num_labels", apply_on="instantiate"
        )
        parser.link_arguments("data.task", "model.init_args.task", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            actions = self._subcommand_parsers[args[0]]._option_string_actions
            options = [name.lstrip("-") for name in actions]
            raise ConfigError(one_line(str(error), options, args)) from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self._get(self.config_init, "trainer.logger") in (None, True):
            kwargs["logger"] = default_logger(
                self._get(self.config_init, "trainer.default_root_dir")
            )
        try:
            return super().instantiate_trainer(**kwargs)
        except ValueError as error:  # what Lightning says of a strategy or accelerator
            raise ConfigError(f"trainer: {' '.join(str(error).split())[:300]}") from None

    def after_instantiate_classes(self) -> None:
        """Refuse to evaluate a `last` checkpoint that does not exist: Lightning would go on."""
        ckpt_path = self._get(self.config, "ckpt_path")
        if self.subcommand != "fit" and ckpt_path == "last":
            callbacks = self.trainer.checkpoint_callbacks
            if not any(
                callback._find_last_checkpoints(self.trainer)
                for callback in callbacks
                if isinstance(callback, ModelCheckpoint)
            ):
                raise ConfigError(
                    f"ckpt_path is last, but there is none in {self.trainer.default_root_dir}: fit "
                    "first, or name the file"
                )

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            if (cause := own_error(error)) is not None:
                raise cause from None
            if "Does not validate" not in str(error):
                raise
            raise ConfigError(one_line(str(error))) from None

    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is: a checkpoint of another model is an error, not a config."""


def main(args: list[str], kind: type[FederatedCLI] = FederatedCLI) -> int:
    """Run a trainer command of this kind and return the exit code."""
    silence_libraries()
    try:
        kind(args)
    except (FedTTError, MisconfigurationException) as error:
        return _fail(str(error))
    except RuntimeError as error:
        if is_lost_process(error):
            return _fail(
                "the connection to another process broke: see which one was lost and what it "
                "printed; go on from the last checkpoint with --ckpt_path last"
            )
        first, *rest = str(error).splitlines()
        if first.startswith("Error(s) in loading state_dict"):
            detail = " ".join(line.strip() for line in rest[:2])[:300]
            return _fail(f"the checkpoint is of another model or method: {detail}")
        if first.startswith("Found more than one stateful callback"):
            return _fail(f"trainer.callbacks: {first.split('.')[0]}: name each callback once")
        if first.startswith("Early stopping conditioned on metric"):
            return _fail(f"trainer.callbacks: {first}")
        if first.startswith("Training with multiple optimizers"):
            return _fail(
                "the module's configure_optimizers gives several optimizers, which Lightning steps "
                "by manual optimization only: let one optimizer step all parameters"
            )
        raise
    except UnicodeDecodeError as error:
        return _fail(f"a config file is not UTF-8 text: {error}")
    except ValueError as error:
        if str(error).startswith("You set `devices="):  # where torchrun or SLURM started others
            return _fail(f"trainer.devices, trainer.num_nodes: {error}")
        if not _comes_from_checkpoint_choice(error):
            raise
        return _fail(f"ckpt_path: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}")
    return 0


def silence_libraries() -> None:
    """Hide the warnings and tips of the libraries below that a user cannot act on."""
    for message in _NOT_OURS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors"):
        logging.getLogger(name).addFilter(_without_tips)


def own_error(error: BaseException) -> FedTTError | None:
    """Return the error that a constructor has raised, around which jsonargparse wraps its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FedTTError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _comes_from_checkpoint_choice(error: BaseException) -> bool:
    """Tell whether Lightning raised an error while it looked for `best`, `last` or `hpc`."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).name == "checkpoint_connector.py"


def _without_tips(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


def _fail(message: str) -> int:
    for line in message.strip().splitlines():
        print(f"error: {line.strip()}", file=sys.stderr)
    return 2
