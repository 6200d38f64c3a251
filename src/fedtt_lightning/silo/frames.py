"""Frames: opaque bytes with their length in front, over a stream socket.

Thin apps import this in every fresh process, so it needs nothing but the standard library.
"""

from __future__ import annotations

import socket
import struct
from time import monotonic

from fedtt_lightning.errors import FederationError

_HEADER = struct.Struct(">4sBQ")
_MAGIC = b"fedT"
_VERSION = 1
_CHUNK = 1 << 20


def send_frame(connection: socket.socket, payload: bytes, timeout: float) -> None:
    """Send `payload` as one frame.

    Args:
        connection: a connected stream socket.
        payload: any bytes.
        timeout: seconds until the other side must have taken it all.

    Raises:
        FederationError: the other side is gone or too slow.
    """
    end = monotonic() + timeout
    rest = memoryview(_HEADER.pack(_MAGIC, _VERSION, len(payload)))
    for part in (rest, memoryview(payload)):
        while part:
            _wait_until(connection, end, f"took no frame of {len(payload)} bytes", timeout)
            try:
                part = part[connection.send(part[:_CHUNK]) :]
            except TimeoutError:
                continue
            except OSError as error:
                raise FederationError(f"the other side hung up: {error.strerror}") from None


def receive_frame(connection: socket.socket, limit: int, timeout: float) -> bytes:
    """Return the payload of the next frame.

    Args:
        connection: a connected stream socket.
        limit: bytes a payload may have; a longer one is refused before any of it is read.
        timeout: seconds until the frame must be complete.

    Raises:
        FederationError: no frame, one too long or cut off, or one of another version.
    """
    end = monotonic() + timeout
    magic, version, length = _HEADER.unpack(_read(connection, _HEADER.size, end, timeout))
    if magic != _MAGIC:
        raise FederationError("what arrived is no frame of fedtt-lightning")
    if version != _VERSION:
        raise FederationError(
            f"the frame has version {version}, not {_VERSION}: install one version on both sides"
        )
    if length > limit:
        raise FederationError(f"the frame has {length} bytes, but at most {limit} are allowed")
    return _read(connection, length, end, timeout)


def _read(connection: socket.socket, size: int, end: float, timeout: float) -> bytes:
    """Read `size` bytes; memory grows with what arrives, not with what was announced."""
    parts: list[bytes] = []
    missing = size
    while missing:
        _wait_until(connection, end, f"sent {size - missing} of {size} bytes", timeout)
        try:
            part = connection.recv(min(missing, _CHUNK))
        except TimeoutError:
            continue
        except OSError as error:
            raise FederationError(f"the other side hung up: {error.strerror}") from None
        if not part:
            raise FederationError(f"the other side hung up after {size - missing} of {size} bytes")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _wait_until(connection: socket.socket, end: float, what: str, timeout: float) -> None:
    """Let the next call on `connection` last no longer than until `end`."""
    left = end - monotonic()
    if left <= 0:
        raise FederationError(f"the other side {what} within {timeout:g} s")
    connection.settimeout(left)
