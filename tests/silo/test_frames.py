"""Frames over real socket pairs: what comes through, and what is refused."""

import socket
import struct
import threading
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.frames import receive_frame, send_frame

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@given(st.lists(st.binary(max_size=3000), max_size=4))
def test_frames_come_out_as_they_went_in(payloads: list[bytes]) -> None:
    left, right = socket.socketpair()
    with left, right:
        for payload in payloads:
            send_frame(left, payload, 5)
        assert [receive_frame(right, 3000, 5) for _ in payloads] == payloads


def test_a_frame_larger_than_the_socket_s_buffer(pair: Pair) -> None:
    payload = bytes(range(256)) * 20_000
    sender = threading.Thread(target=send_frame, args=(pair[0], payload, 20), daemon=True)
    sender.start()
    assert receive_frame(pair[1], len(payload), 20) == payload
    sender.join(5)


def test_the_layout_is_fixed(pair: Pair) -> None:
    send_frame(pair[0], b"abc", 5)
    assert pair[1].recv(100) == b"fedT\x01" + struct.pack(">Q", 3) + b"abc"


def test_a_frame_that_is_too_long_is_refused_before_it_is_read(pair: Pair) -> None:
    pair[0].sendall(b"fedT\x01" + struct.pack(">Q", 1 << 62))
    tracemalloc.start()
    with pytest.raises(FederationError, match="at most 1000 are allowed"):
        receive_frame(pair[1], 1000, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_memory_follows_what_arrives_not_what_is_announced(pair: Pair) -> None:
    pair[0].sendall(b"fedT\x01" + struct.pack(">Q", 1 << 29) + b"few")
    pair[0].close()
    tracemalloc.start()
    with pytest.raises(FederationError, match="after 3 of 536870912 bytes"):
        receive_frame(pair[1], 1 << 30, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@given(st.binary(max_size=40))
def test_any_other_bytes_are_an_error(garbage: bytes) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(garbage)
        left.close()
        with pytest.raises(FederationError):
            receive_frame(right, 10, 5)


@pytest.mark.parametrize(
    ("start", "message"),
    [(b"http\x01", "no frame of fedtt-lightning"), (b"fedT\x02", "version 2, not 1: install")],
)
def test_a_wrong_start(pair: Pair, start: bytes, message: str) -> None:
    pair[0].sendall(start + struct.pack(">Q", 0))
    with pytest.raises(FederationError, match=message):
        receive_frame(pair[1], 10, 5)


def test_a_silent_sender_is_not_waited_for(pair: Pair) -> None:
    pair[0].sendall(b"fedT\x01" + struct.pack(">Q", 5) + b"ab")
    with pytest.raises(FederationError, match=r"sent 2 of 5 bytes within 0.05 s"):
        receive_frame(pair[1], 10, 0.05)


def test_a_receiver_that_takes_nothing_is_not_waited_for(pair: Pair) -> None:
    with pytest.raises(FederationError, match=r"took no frame of 5000000 bytes within 0.1 s"):
        send_frame(pair[0], bytes(5_000_000), 0.1)


def test_a_receiver_that_is_gone(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(FederationError, match="hung up"):
        send_frame(pair[0], b"abc", 5)
