"""Passes TCP connections on to a port of this machine, and counts their bytes."""

from __future__ import annotations

import socket
import threading
import time
from bisect import bisect_right
from contextlib import suppress

_CHUNK = 1 << 16


class ByteCounter:
    """Listens on `port` and passes what it hears on to `target`, and the other way.

    Args:
        target: port on 127.0.0.1, which may be closed at first.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._lock = threading.Lock()
        self._times, self._totals = [0.0], [0]
        threading.Thread(target=self._accept, daemon=True).start()

    def at(self, when: float) -> int:
        """Return the bytes of both ways until `when`, in seconds since the epoch."""
        with self._lock:
            return self._totals[bisect_right(self._times, when) - 1]

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                with self._lock:
                    self._times.append(time.time())
                    self._totals.append(self._totals[-1] + len(data))
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
