"""`python -m fedtt_lightning serve`: the server of a real federation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from fedtt_lightning.cli import FederatedCLI
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.silo.direct_transport import DirectTransport
from fedtt_lightning.silo.long_fit import checkpoints_of, fit_from_last, run_until_interrupted
from fedtt_lightning.silo.serve_settings import ServeSettings
from fedtt_lightning.silo.server_exchange import ServerExchange
from fedtt_lightning.silo.transport import Transport


class ServeCLI(FederatedCLI):
    """The command line of `fit` with the keys of `serve`, which goes on by itself."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(ServeSettings, "serve")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self._subcommand_parsers["fit"].prog = "python -m fedtt_lightning serve"
        super().parse_arguments(parser, args)

    def fit(self, **arguments: Any) -> None:
        """Run the server, from the last checkpoint if there is one."""
        settings: ServeSettings = self._get(self.config_init, "serve")
        settings.check()
        if not checkpoints_of(self.trainer):
            raise ConfigError(
                "silos go back to no round that they have begun, so serve must save every round: "
                "add fedtt_lightning.callbacks.FederatedCheckpoint to trainer.callbacks"
            )
        folder = Path(settings.folder or Path(self.trainer.default_root_dir) / "flower")
        exchange = ServerExchange(settings, lambda: connect(settings, folder))
        fit_from_last(self.trainer, exchange, arguments)


def connect(settings: ServeSettings, folder: Path) -> Transport:
    """Start what reaches the silos."""
    if settings.sockets is not None:
        return DirectTransport(settings.sockets, settings.message_limit)
    from fedtt_lightning.silo.flower_transport import FlowerTransport

    assert settings.ca_certificate and settings.certificate and settings.private_key
    return FlowerTransport(
        settings.host,
        settings.port,
        folder,
        settings.ca_certificate,
        settings.certificate,
        settings.private_key,
        settings.node_keys or [],
        settings.message_limit,
    )


def main(args: list[str]) -> int:
    """Run the command and return the exit code."""
    return run_until_interrupted(ServeCLI, args, "serve")
