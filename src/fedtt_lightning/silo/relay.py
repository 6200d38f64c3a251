"""What `serve` and its relay, the thin app on Flower's side, say to each other.

`serve` asks and the relay answers, frame by frame, so neither ever writes into a full pipe.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fedtt_lightning.silo.transport import Failure

SOCKET_VARIABLE = "FEDTT_RELAY_SOCKET"  # how the relay finds `serve`: it inherits the environment
LIMIT_VARIABLE = "FEDTT_RELAY_LIMIT"
OVERHEAD = 64  # bytes a frame has beside a payload, at most

_SEND = struct.Struct(">Qd")
_WAIT = struct.Struct(">d")
_NODE = struct.Struct(">Q")


@dataclass(frozen=True)
class ListNodes:
    """Asks for the nodes that are online; answered by `write_nodes`."""


@dataclass(frozen=True)
class Forget:
    """Drops what was sent before and has no reply yet; answered by nothing."""


@dataclass(frozen=True)
class Send:
    """Hands over a payload for a node, which expires after `lifetime` seconds."""

    node: int
    lifetime: float
    payload: bytes


@dataclass(frozen=True)
class Poll:
    """Asks for one reply; answered by `write_reply`, or by nothing after `wait` seconds."""

    wait: float


Command = ListNodes | Forget | Send | Poll


def write_command(command: Command) -> bytes:
    """Return `command` as a frame's payload."""
    match command:
        case ListNodes():
            return b"n"
        case Forget():
            return b"f"
        case Send(node, lifetime, payload):
            return b"s" + _SEND.pack(node, lifetime) + payload
        case Poll(wait):
            return b"p" + _WAIT.pack(wait)


def read_command(frame: bytes) -> Command:
    """Return the command that `write_command` wrote."""
    match frame[:1]:
        case b"n":
            return ListNodes()
        case b"f":
            return Forget()
        case b"s":
            node, lifetime = _SEND.unpack_from(frame, 1)
            return Send(node, lifetime, frame[1 + _SEND.size :])
        case b"p":
            return Poll(*_WAIT.unpack_from(frame, 1))
    raise ValueError(f"no command starts with {frame[:1]!r}")


def write_nodes(nodes: list[int]) -> bytes:
    """Return node ids as a frame's payload."""
    return struct.pack(f">{len(nodes)}Q", *nodes)


def read_nodes(frame: bytes) -> list[int]:
    """Return the node ids that `write_nodes` wrote."""
    return list(struct.unpack(f">{len(frame) // 8}Q", frame))


def write_reply(node: int, result: bytes | Failure) -> bytes:
    """Return a node's reply, or why it has none, as a frame's payload."""
    if isinstance(result, Failure):
        return b"-" + _NODE.pack(node) + result.reason.encode()
    return b"+" + _NODE.pack(node) + result


def read_reply(frame: bytes) -> tuple[int, bytes | Failure] | None:
    """Return what `write_reply` wrote, or None for an empty frame."""
    if not frame:
        return None
    (node,) = _NODE.unpack_from(frame, 1)
    rest = frame[1 + _NODE.size :]
    return node, rest if frame[:1] == b"+" else Failure(rest.decode(errors="replace"))
