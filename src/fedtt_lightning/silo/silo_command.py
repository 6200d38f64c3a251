"""`python -m fedtt_lightning silo`: one client of a real federation."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from fedtt_lightning.cli import FederatedCLI
from fedtt_lightning.silo.long_fit import fit_from_last, run_until_interrupted
from fedtt_lightning.silo.silo_exchange import SiloExchange
from fedtt_lightning.silo.silo_settings import SiloSettings


class SiloCLI(FederatedCLI):
    """The command line of `fit` with the keys of `silo`, which goes on by itself."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(SiloSettings, "silo")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self._subcommand_parsers["fit"].prog = "python -m fedtt_lightning silo"
        super().parse_arguments(parser, args)

    def fit(self, **arguments: Any) -> None:
        """Train whenever the server asks, from the last checkpoint if there is one."""
        settings: SiloSettings = self._get(self.config_init, "silo")
        settings.check()
        fit_from_last(self.trainer, SiloExchange(settings), arguments)


def main(args: list[str]) -> int:
    """Run the command and return the exit code."""
    os.umask(0o077)  # checkpoints hold what never leaves the silo
    return run_until_interrupted(SiloCLI, args, "silo")
