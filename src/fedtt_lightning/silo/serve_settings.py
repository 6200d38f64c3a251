"""The keys of `serve`: where silos find the server, and how long it waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from fedtt_lightning.errors import ConfigError


@dataclass
class ServeSettings:
    """How the server of a real federation is reached, and what it waits for.

    Args:
        silos: number of silos; silo k is client k.
        sockets: sockets of the silos, in their order, where all of them run on this machine; the
            server then needs no network, and no key below.
        host: address of this machine to listen on; 0.0.0.0 for all that it has.
        port: to listen on.
        folder: for Flower's own files; `flower` in `trainer.default_root_dir` if not given.
        ca_certificate: certificate of the federation's authority, which silos have too.
        certificate: the server's certificate.
        private_key: the key that belongs to it.
        node_keys: public keys of the silos, in their order; others are refused.
        round_deadline: seconds a round's silos have to answer.
        grace: seconds that a silo which has gone may take to come back within a round, and is then
            asked again; 0 drops it at once. At the run's end they may take as long to be told.
        join_timeout: seconds to wait for silos before the first round, or after a restart.
        max_update_norm: largest L2 norm of a client's update that counts; any if not given.
        secure_aggregation: add up updates under masks, so that the server learns their sum only;
            with SecureMean, or PrivateMean with a codec. Silos have up to `round_deadline` for each
            of its three stages, too.
        message_limit: largest bytes of a message, either way; of a longer one no more is read.
    """

    silos: int
    sockets: list[str] | None = None
    host: str = "127.0.0.1"
    port: int = 9092
    folder: str | None = None
    ca_certificate: str | None = None
    certificate: str | None = None
    private_key: str | None = None
    node_keys: list[str] | None = None
    round_deadline: float = 600.0
    grace: float = 30.0
    join_timeout: float = 600.0
    max_update_norm: float | None = None
    secure_aggregation: bool = False
    message_limit: int = 1_073_741_824  # 1 GiB

    def check(self) -> None:
        """Raise ConfigError if a number makes no sense."""
        if self.silos < 1:
            raise ConfigError(f"serve.silos is {self.silos}, but must be >= 1")
        if self.sockets is not None and len(self.sockets) != self.silos:
            raise ConfigError(
                f"serve.sockets names {len(self.sockets)} sockets, but serve.silos is "
                f"{self.silos}: name one for each silo"
            )
        for key in ("ca_certificate", "certificate", "private_key", "node_keys"):
            if self.sockets is None and getattr(self, key) is None:
                raise ConfigError(f"serve.{key} is not set: name the file, or serve.sockets")
        if self.node_keys is not None and len(self.node_keys) != self.silos:
            raise ConfigError(
                f"serve.node_keys names {len(self.node_keys)} keys, but serve.silos is "
                f"{self.silos}: name each silo's public key, silo 0 first"
            )
        if not 0 <= self.grace < inf:
            raise ConfigError(f"serve.grace is {self.grace}, but must be >= 0 and finite")
        for key in ("round_deadline", "join_timeout", "max_update_norm", "message_limit"):
            value = getattr(self, key)
            if value is not None and not 0 < value < inf:
                raise ConfigError(f"serve.{key} is {value}, but must be > 0 and finite")
