"""The command line: LightningCLI with the federation's keys, and errors of one line."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from fedtt_lightning.callbacks import FederatedRounds, PredictionFile
from fedtt_lightning.errors import ConfigError, FedTTError


class FederatedCLI(LightningCLI):
    """LightningCLI with the keys `federation` (FederatedRounds) and `predictions`.

    The model learns `num_labels` and `task` from the data, and the data take their tokenizer from
    the model's backbone, where the classes named in the config have such arguments.
    """

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": "python -m fedtt_lightning", "exit_on_error": False},
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(FederatedRounds, "federation")
        parser.add_lightning_class_args(PredictionFile, "predictions")
        parser.link_arguments("model.init_args.backbone", "data.init_args.tokenizer")
        parser.link_arguments("data.num_labels", "model.init_args.num_labels", apply_on="instantiate")
        parser.link_arguments("data.task", "model.init_args.task", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Leave the config as it is: a checkpoint of another model is an error, not a config."""


def main(args: list[str]) -> int:
    """Run a trainer command and return the exit code."""
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    try:
        FederatedCLI(args)
    except (FedTTError, MisconfigurationException) as error:
        return _fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}")
    return 0


def _fail(message: str) -> int:
    for line in message.strip().splitlines():
        print(f"error: {line.strip()}", file=sys.stderr)
    return 2
