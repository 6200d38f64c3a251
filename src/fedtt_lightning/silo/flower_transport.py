"""The server's end of a federation over Flower: payloads to silos, and their answers."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.frames import receive_frame, send_frame
from fedtt_lightning.silo.local_socket import LocalServer
from fedtt_lightning.silo.relay import (
    LIMIT_VARIABLE,
    OVERHEAD,
    SOCKET_VARIABLE,
    Command,
    Forget,
    ListNodes,
    Poll,
    Send,
    read_nodes,
    read_reply,
    write_command,
)
from fedtt_lightning.silo.super_link import SuperLink
from fedtt_lightning.silo.transport import Failure, Transport

_START = 60.0  # seconds the relay may take to come up
_ANSWER = 60.0  # seconds the relay may take for an answer, beside what it is told to wait
_GRACE = 2.0  # seconds a message outlives the deadline, so that it never expires before it
_LOOK = 1.0  # seconds between two looks at whether the SuperLink is alive


class _RelayEnded(FederationError):
    """The relay is gone; a new one can be started."""


class FlowerTransport(Transport):
    """Reaches silos over Flower's SuperLink, used through a relay that Flower runs.

    Args:
        host: address to listen on; 0.0.0.0 for all.
        port: to listen on.
        folder: for Flower's own files.
        ca_certificate: the authority's certificate, as silos have it.
        certificate: the server's, signed by it.
        private_key: of the server's certificate.
        node_keys: the silos' public keys, as files; silos with others are refused.
        limit: bytes a payload may have, either way.

    Attributes:
        silos: the index in `node_keys` of the key that each node has proved to hold.

    Raises:
        ConfigError: anything that does not fit, before anything is started.
        FederationError: Flower did not start.
    """

    def __init__(
        self,
        host: str,
        port: int,
        folder: str | Path,
        ca_certificate: str | Path,
        certificate: str | Path,
        private_key: str | Path,
        node_keys: Sequence[str | Path],
        limit: int,
    ) -> None:
        self._limit = limit
        self._waiting: set[int] = set()  # nodes whose answers are to come
        self._lost: set[int] = set()  # those whose answers went with a relay
        self._connection: socket.socket | None = None
        # `folder` may be too long for a socket's path, or open to others.
        self._own = TemporaryDirectory(prefix="fedtt-")
        self._server = LocalServer(Path(self._own.name) / "relay", limit + OVERHEAD)
        try:
            variables = {SOCKET_VARIABLE: str(self._server.path), LIMIT_VARIABLE: str(limit)}
            files = (ca_certificate, certificate, private_key)
            self._link = SuperLink(host, port, Path(folder), *files, node_keys, variables)
        except BaseException:
            self._close_socket()
            raise
        self.silos = {node: index for index, node in enumerate(self._link.nodes)}
        try:
            self._start_relay()
        except BaseException:
            self.close()
            raise

    def nodes(self) -> list[int]:
        """Return the nodes that are online; Flower notices within 20 s that one is gone."""
        try:
            return read_nodes(self._ask(ListNodes()))
        except _RelayEnded:
            self._replace_relay()
            return read_nodes(self._ask(ListNodes()))

    def forget(self) -> None:
        self._waiting.clear()
        self._lost.clear()
        try:
            self._ask(Forget())
        except _RelayEnded:
            self._replace_relay()

    def send(self, node: int, payload: bytes, lifetime: float) -> None:
        """Send a node its payload, which expires with its lifetime; see `Transport.send`."""
        self._waiting.add(node)
        try:
            self._ask(Send(node, max(lifetime, 0.0) + _GRACE, payload))
        except _RelayEnded:
            self._replace_relay()

    def receive(self, timeout: float) -> tuple[int, bytes | Failure] | None:
        """Return the next answer; see `Transport.receive`.

        Raises:
            FederationError: Flower has ended.
        """
        end = monotonic() + timeout
        try:
            while not self._lost and (left := end - monotonic()) > 0:
                reply = read_reply(self._ask(Poll(min(left, _LOOK))))
                if reply is not None:
                    self._waiting.discard(reply[0])
                    return reply
        except _RelayEnded:
            self._replace_relay()
        if self._lost:
            return self._lost.pop(), Failure("the server's relay ended before the answer came")
        return None

    def close(self) -> None:
        """End all of Flower's processes and free the port."""
        self._link.stop()
        self._close_socket()

    def _close_socket(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._server.close()
        self._own.cleanup()

    def _replace_relay(self) -> None:
        self._lost |= self._waiting
        self._waiting.clear()
        self._start_relay()

    def _start_relay(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._link.check()
        self._link.start_app()
        end = monotonic() + _START
        while (connection := self._server.accept(_LOOK)) is None:
            self._link.check()
            if monotonic() > end:
                raise FederationError(f"the server's relay did not start: see {self._link.log}")
        self._connection = connection

    def _ask(self, command: Command) -> bytes:
        assert self._connection is not None
        end = monotonic() + _ANSWER
        try:
            send_frame(self._connection, write_command(command), _ANSWER)
            while not select.select([self._connection], [], [], _LOOK)[0]:
                self._link.check()
                if monotonic() > end:
                    raise FederationError("the relay says nothing")
            return receive_frame(self._connection, self._limit + OVERHEAD, _ANSWER)
        except FederationError:
            self._link.check()
            raise _RelayEnded(f"the server's relay ended: see {self._link.log}") from None
