"""Requests between processes of one user on one machine, over a Unix socket."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import IO

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.silo.frames import receive_frame, send_frame

_LONGEST = 107  # bytes of a socket's path in Linux
_TRANSFER = 60.0  # seconds a whole frame may take between two processes of one machine


class Request:
    """One request to a `LocalServer`, to be replied to once.

    Attributes:
        payload: the bytes that were sent.
    """

    def __init__(self, connection: socket.socket, payload: bytes) -> None:
        self._connection = connection
        self.payload = payload

    def reply(self, payload: bytes) -> None:
        """Send the answer; nothing happens if who asked is gone."""
        with self._connection, suppress(FederationError):
            send_frame(self._connection, payload, _TRANSFER)


class LocalServer:
    """A Unix socket of this user alone, and the requests that come in.

    A socket file that a dead process left behind is replaced.

    Args:
        path: of the socket, mode 0600; its folder is made with mode 0700 if it is missing.
        limit: bytes a request may have.
        key: what names `path` in the configuration, for errors.

    Raises:
        ConfigError: a path that is too long or of another file, a folder that others can enter,
            or a process that listens there already.
    """

    def __init__(self, path: str | Path, limit: int, key: str = "silo.socket") -> None:
        self.path = Path(path).absolute()
        self._limit = limit
        check_socket_path(self.path, key)
        _check_folder(self.path.parent, key)
        if self.path.exists() and not self.path.is_socket():
            raise ConfigError(f"{key}: {self.path} is another file: choose a path for a socket")
        problem = f"a worker already listens on {self.path}; stop it or choose another {key}"
        self._lock: IO[bytes] | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._lock = lock_file(f"{self.path}.lock", problem)
            self.path.unlink(missing_ok=True)  # only a dead process has left it: the lock is ours
            self._listener.bind(str(self.path))
            self.path.chmod(0o600)
            self._listener.listen(16)
        except OSError as error:
            self.close()
            raise ConfigError(f"{key}: cannot listen on {self.path}: {error.strerror}") from None
        except ConfigError:
            self._listener.close()
            raise

    def receive(self, timeout: float) -> Request | None:
        """Return the next request, or None if `timeout` seconds pass without one.

        Callers that send no whole frame, or go away before, are dropped.
        """
        end = monotonic() + timeout
        while (connection := self.accept(max(end - monotonic(), 0.0))) is not None:
            try:
                return Request(connection, receive_frame(connection, self._limit, _TRANSFER))
            except FederationError:
                connection.close()
        return None

    def accept(self, timeout: float) -> socket.socket | None:
        """Return the next connection of this user, or None after `timeout` seconds."""
        end = monotonic() + timeout
        while True:
            self._listener.settimeout(max(end - monotonic(), 0.001))
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                return None
            if _peer_uid(connection) == os.getuid():
                return connection
            connection.close()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._listener.close()
        if self._lock is not None:
            self.path.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(path: str | Path, payload: bytes, limit: int, timeout: float) -> bytes:
    """Send `payload` to the `LocalServer` at `path` and return its reply.

    Args:
        path: of the socket.
        payload: any bytes.
        limit: bytes the reply may have.
        timeout: seconds to wait for the reply.

    Raises:
        FederationError: nobody listens there, or no whole reply came in time.
    """
    with connect(path) as connection:
        send_frame(connection, payload, min(timeout, _TRANSFER))
        return receive_frame(connection, limit, timeout)


def connect(path: str | Path) -> socket.socket:
    """Return a connection to the listener at `path`, which must be this user's."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_TRANSFER)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise FederationError(
            f"no process listens on {path} ({error.strerror or error}): start it there"
        ) from None
    if _peer_uid(connection) != os.getuid():
        connection.close()
        raise FederationError(f"another user's process listens on {path}: choose another path")
    return connection


def check_socket_path(path: Path, key: str) -> None:
    """Raise ConfigError if `path` is longer than the system allows for sockets."""
    size = len(os.fsencode(path))
    if size > _LONGEST:
        raise ConfigError(
            f"{key}: {path} has {size} bytes, but a socket's path at most {_LONGEST}: "
            "choose a shorter one"
        )


def lock_file(path: str | Path, problem: str) -> IO[bytes]:
    """Lock a file until it is closed, at the latest when this process ends.

    Raises:
        ConfigError: with this `problem`, if another one has locked it.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(problem) from None
    except OSError:  # a file system without locks
        pass
    return file


def _check_folder(folder: Path, key: str) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ConfigError(f"{key}: cannot make the folder {folder}: {error.strerror}") from None
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"{key}: others can enter the folder {folder}: choose one of your own with mode 0700"
        )


def _peer_uid(connection: socket.socket) -> int:
    form = struct.Struct("3i")  # pid, uid, gid
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size)
    return int(form.unpack(raw)[1])
