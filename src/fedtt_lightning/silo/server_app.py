"""Flower's side of the server: does what `serve` asks of it, and knows nothing of rounds."""

from __future__ import annotations

import os
from collections import deque
from time import monotonic, sleep

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.envelope import pack, unpack
from fedtt_lightning.silo.frames import receive_frame, send_frame
from fedtt_lightning.silo.local_socket import connect
from fedtt_lightning.silo.relay import (
    LIMIT_VARIABLE,
    OVERHEAD,
    SOCKET_VARIABLE,
    Forget,
    ListNodes,
    Poll,
    Send,
    read_command,
    write_nodes,
    write_reply,
)
from fedtt_lightning.silo.transport import Failure

_IDLE = 30 * 86400.0  # `serve` may be silent for long; when it ends, the connection closes
_TRANSFER = 60.0
_LONGEST_REASON = 300  # characters, of what a silo says
_PAUSE = 0.2  # seconds between two looks for replies; Flower's own `send_and_receive` takes 3

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Serve the commands of `serve` until it hangs up."""
    limit = int(os.environ[LIMIT_VARIABLE])
    relay = _Relay(grid, limit)
    with connect(os.environ[SOCKET_VARIABLE]) as connection:
        while True:
            try:
                frame = receive_frame(connection, limit + OVERHEAD, _IDLE)
            except FederationError:
                return
            send_frame(connection, relay.answer(frame), _TRANSFER)


class _Relay:
    def __init__(self, grid: Grid, limit: int) -> None:
        self._grid = grid
        self._limit = limit
        self._waiting: dict[str, int] = {}  # id of a message without reply: its node
        self._arrived: deque[bytes] = deque()

    def answer(self, frame: bytes) -> bytes:
        match read_command(frame):
            case ListNodes():
                return write_nodes(list(self._grid.get_node_ids()))
            case Forget():
                self._waiting.clear()
                self._arrived.clear()
            case Send(node, lifetime, payload):
                self._send(node, lifetime, payload)
            case Poll(wait):
                self._wait(wait)
                return self._arrived.popleft() if self._arrived else b""
        return b""

    def _send(self, node: int, lifetime: float, payload: bytes) -> None:
        message = Message(pack(payload), dst_node_id=node, message_type="train", ttl=lifetime)
        (key,) = list(self._grid.push_messages([message])) or [None]
        if key:
            self._waiting[key] = node
        else:
            self._arrived.append(write_reply(node, Failure("Flower did not take the message")))

    def _wait(self, wait: float) -> None:
        end = monotonic() + wait
        while self._waiting and not self._arrived:
            for message in self._grid.pull_messages(list(self._waiting)):
                node = self._waiting.pop(message.metadata.reply_to_message_id, None)
                if node is not None:
                    self._arrived.append(write_reply(node, self._result(message)))
            if self._arrived or (left := end - monotonic()) <= 0:
                return
            sleep(min(_PAUSE, left))

    def _result(self, message: Message) -> bytes | Failure:
        """Return a silo's answer, or a failure of that silo alone."""
        try:
            payload = unpack(message)
        except FederationError as error:
            text = str(error)[:_LONGEST_REASON]
            return Failure("".join(c if c.isprintable() else "?" for c in text))
        if len(payload) > self._limit:
            size = len(payload)
            return Failure(f"its answer has {size} bytes, but at most {self._limit} may come")
        return payload
