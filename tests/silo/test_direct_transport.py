"""Requests to silos of one machine: answers as they come, failures, and the deadline."""

from pathlib import Path
from threading import Thread
from time import monotonic

import pytest

from fedtt_lightning.silo.direct_transport import DirectTransport
from fedtt_lightning.silo.local_socket import LocalServer
from fedtt_lightning.silo.transport import Failure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def answer_once(server: LocalServer) -> Thread:
    """Answer one request with its payload twice."""

    def work() -> None:
        request = server.receive(timeout=10)
        assert request is not None
        request.reply(request.payload * 2)

    thread = Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_answers_come_in_the_order_in_which_they_are_given(folder: Path) -> None:
    with LocalServer(folder / "a", 100) as a, LocalServer(folder / "b", 100) as b:
        answer_once(b)
        transport = DirectTransport([folder / "a", folder / "b"], 100)
        answers = transport.exchange({0: b"x", 1: b"y"}, 10)
        assert next(answers) == (1, b"yy")
        answer_once(a)
        assert list(answers) == [(0, b"xx")]


def test_nodes_are_the_sockets_with_a_listener(folder: Path) -> None:
    transport = DirectTransport([folder / "a", folder / "b", folder / "c"], 100)
    assert transport.nodes() == []
    with LocalServer(folder / "c", 100):
        assert transport.nodes() == [2]
        (folder / "a").touch()  # what a killed process leaves behind
        assert transport.nodes() == [2]


def test_a_silo_that_is_not_there_or_hangs_up_is_a_failure(folder: Path) -> None:
    with LocalServer(folder / "a", 100) as server:
        hangs_up = Thread(target=lambda: server.accept(10).close(), daemon=True)
        hangs_up.start()
        transport = DirectTransport([folder / "a", folder / "b"], 100)
        answers = dict(transport.exchange({0: b"x", 1: b"x"}, 10))
    assert isinstance(answers[0], Failure) and "hung up" in answers[0].reason
    assert isinstance(answers[1], Failure) and "no process listens" in answers[1].reason


def test_an_answer_over_the_limit_is_a_failure(folder: Path) -> None:
    with LocalServer(folder / "a", 100) as server:
        answer_once(server)
        transport = DirectTransport([folder / "a"], 9)
        ((_, answer),) = transport.exchange({0: b"x" * 5}, 10)
    assert answer == Failure("the frame has 10 bytes, but at most 9 are allowed")


def test_it_ends_at_the_deadline_without_those_that_are_silent(folder: Path) -> None:
    with LocalServer(folder / "a", 100), LocalServer(folder / "b", 100) as b:
        answer_once(b)
        begin = monotonic()
        transport = DirectTransport([folder / "a", folder / "b"], 100)
        assert list(transport.exchange({0: b"x", 1: b"y"}, 2)) == [(1, b"yy")]
        assert monotonic() - begin < 8
