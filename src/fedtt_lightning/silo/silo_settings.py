"""The keys of `silo`: which client it is, and where its server is."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

from fedtt_lightning.errors import ConfigError


@dataclass
class SiloSettings:
    """Which of a real federation's clients trains here, and how its server reaches it.

    Args:
        client: number of this silo's client, from 0; the same number for the federation's life.
        clients: number of silos.
        socket: path of the socket at which requests arrive; its folder must be the user's alone.
        server: host:port of the server; without it something else beside this process passes
            requests on, such as a server on the same machine.
        root_certificate: certificate of the federation's authority.
        key: this silo's private key, whose public half the server knows.
        secure_aggregation: send updates under masks only, of which the server learns the sum.
        give_up_after: seconds without a word from the server after which the silo ends.
    """

    client: int
    clients: int
    socket: str
    server: str | None = None
    root_certificate: str | None = None
    key: str | None = None
    secure_aggregation: bool = False
    give_up_after: float = 3600.0

    def check(self) -> None:
        """Raise ConfigError if a key makes no sense, or is missing."""
        if not 0 <= self.client < self.clients:
            raise ConfigError(
                f"silo.client is {self.client} and silo.clients {self.clients}: number the silos "
                f"from 0 to silo.clients - 1"
            )
        if not 0 < self.give_up_after < inf:
            raise ConfigError(
                f"silo.give_up_after is {self.give_up_after}, but must be > 0 and finite"
            )
        for name in ("root_certificate", "key") if self.server is not None else ():
            if (path := getattr(self, name)) is None:
                raise ConfigError(f"silo.server is set, but silo.{name} is not: name the file")
            if not Path(path).is_file():
                raise ConfigError(f"silo.{name}: there is no file {path}")
