"""Flower's SuperNode beside a silo's worker: started, watched, started again, given up."""

from __future__ import annotations

import logging
from pathlib import Path
from time import monotonic, sleep

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.silo.flower_processes import (
    FlowerProcess,
    check_flower,
    environment,
    free_port,
)

_CONNECTED = "SuperNode ID:"  # what a SuperNode prints once its server has let it in
_TAKEN, _PASSED_ON = "Received successfully", "Sent successfully"  # a message, its answer
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 5.0
_HOPELESS = {  # what Flower prints: what it means, where waiting would not help
    "certificate has expired": "the server's certificate has expired: make a new one there",
    "CERTIFICATE_VERIFY_FAILED": (
        "silo.root_certificate does not fit the server's certificate, or silo.server is no name "
        "in it"
    ),
    "the server's app is not that of": "install one version of fedtt-lightning on both sides",
}
_REASONS = {
    "[code: 2004]": (  # the second for 20 s after the process was killed
        "the server does not know silo.key (add its .pub file to serve.node_keys), or takes it to "
        "be connected already"
    ),
    "SSL": "there is no TLS at silo.server: does it name the federation's port?",
    "Connection attempt failed": "the server cannot be reached",
}
_log = logging.getLogger(__name__)


class SuperNode:
    """The process that connects a silo to its server, and hands messages to the silo's worker.

    It is started again when it ends, after pauses of 1 to 5 s. Call `check` now and then.

    Args:
        server: the server's host:port.
        root_certificate: of the authority that signed the server's certificate.
        key: the silo's private key, as a file.
        socket: on which the silo's worker listens.
        folder: for Flower's own files.
        limit: bytes an answer of the worker may have.
        give_up_after: seconds without a connection after which `check` raises.

    Raises:
        ConfigError: anything that does not fit, before anything is started.
    """

    def __init__(
        self,
        server: str,
        root_certificate: str | Path,
        key: str | Path,
        socket: str | Path,
        folder: str | Path,
        limit: int,
        give_up_after: float,
    ) -> None:
        check_flower()
        # Flower brings the package that it needs.
        from fedtt_lightning.silo.certificates import check_node_key, check_root_certificate

        host, _, port = server.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ConfigError(f"silo.server is {server!r}, but must be host:port")
        if any(character in str(socket) for character in '"\\\n'):  # Flower reads it as TOML
            raise ConfigError(
                f"silo.socket: {str(socket)!r} has a character that Flower cannot read: choose "
                "another path"
            )
        check_root_certificate(Path(root_certificate))
        check_node_key(Path(key))
        self._server = server
        self._give_up_after = give_up_after
        self._folder = Path(folder).absolute()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"silo: cannot write {folder}: {error.strerror}") from None
        self._arguments = [
            *("--superlink", server),
            *("--root-certificates", str(Path(root_certificate).absolute())),
            *("--auth-supernode-private-key", str(Path(key).absolute())),
            *("--node-config", f'socket="{Path(socket).absolute()}" limit={limit}'),
            *("--max-wait-time", str(give_up_after)),
        ]
        self._lost: float | None = monotonic()  # when it was first seen without a connection
        self._pause = _FIRST_PAUSE
        self._reason = "its process said nothing"
        self._told = ""  # the reason that was last printed
        self._next: float | None = None  # when to start it again, if it has ended
        self._process = self._start()

    def is_connected(self) -> bool:
        """Tell whether the server has let the process in, and the process is alive."""
        return self._process.is_running() and self._process.has_said(_CONNECTED)

    def check(self) -> None:
        """Start the process again if it ended.

        Raises:
            FederationError: there has been no connection for `give_up_after` seconds, or there will
                be none.
        """
        if self._process.has_said(_CONNECTED):
            self._pause = _FIRST_PAUSE
            self._lost, self._told = None, ""
            if self._process.is_running():
                return
        for said, meaning in _HOPELESS.items():
            if self._process.has_said(said):
                raise FederationError(f"cannot join {self._server}: {meaning}")
        self._reason = self._why() or self._reason
        if self._lost is None:
            self._lost = monotonic()
        if monotonic() - self._lost > self._give_up_after:
            raise FederationError(
                f"no connection to {self._server} for {self._give_up_after:g} s "
                f"({self._reason}): see {self._process.log}"
            )
        if self._process.is_running():
            return
        if self._next is None:
            self._next = monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            if self._reason != self._told:
                _log.warning("Not connected to %s: %s; trying again.", self._server, self._reason)
                self._told = self._reason
        elif monotonic() > self._next:
            self._next = None
            self._process = self._start()

    def pass_on(self, seconds: float) -> None:
        """Wait until the worker's last answer has left for the server, so long at most."""
        end = monotonic() + seconds
        while self._process.is_running() and monotonic() < end:
            log = self._process.log.read_text(encoding="utf-8", errors="replace")
            if log.rfind(_PASSED_ON) >= log.rfind(_TAKEN):
                return
            sleep(0.1)

    def close(self) -> None:
        """End the process; the server is told."""
        self._process.stop()

    def _start(self) -> FlowerProcess:
        port = ("--port", str(free_port()))  # for its own helpers; chosen anew each time
        log = self._folder / "supernode.log"
        return FlowerProcess("supernode", [*self._arguments, *port], log, environment(self._folder))

    def _why(self) -> str:
        for said, meaning in _REASONS.items():
            if self._process.has_said(said):
                return meaning
        return "" if self._process.is_running() else self._process.last_words()
