"""What a silo has been asked for, told to its trainer once and in order."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from tempfile import TemporaryDirectory

import pytest

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.inbox import Inbox
from fedtt_lightning.silo.local_socket import LocalServer, ask
from fedtt_lightning.silo.messages import Here, Message, Refused, Train, decode, encode

LIMIT = 1 << 16


class Silo:
    """A silo's socket without a trainer, and a server that asks there."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.server = LocalServer(path, LIMIT)
        self.inbox = Inbox(self.server, LIMIT, Here("1", 1, 0, 2, 5, {}, None), None, None, -1)
        self.pool = ThreadPoolExecutor()

    def say(self, round: int) -> tuple[Train, Future[Message]]:
        message = Train("run", round, 9, 0, "schema", "adapter", "", "")
        sent = self.pool.submit(ask, self.path, encode(message), LIMIT, 10)
        return message, self.pool.submit(lambda: decode(sent.result(), LIMIT))


@pytest.fixture
def silo() -> Iterator[Silo]:
    with TemporaryDirectory() as folder:
        silo = Silo(f"{folder}/own/s")
        yield silo
        silo.inbox.close()
        silo.pool.shutdown()


def test_a_round_that_was_passed_over_is_not_trained_later(silo: Silo) -> None:
    asked, answer = silo.say(1)
    assert silo.inbox.next(10) == asked
    silo.inbox.pass_over(0)
    assert silo.inbox.next(0) == asked
    silo.inbox.pass_over(1)
    assert silo.inbox.next(0) is None
    refused = answer.result(10)
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("client 0 has begun round 2 already, and goes back to round 2")


def test_a_round_takes_the_place_of_one_that_was_not_begun(silo: Silo) -> None:
    first, answer = silo.say(1)
    assert silo.inbox.next(10) == first
    silo.say(2)
    assert answer.result(10) == Refused("another round than 2 was asked for")
    later = silo.inbox.next(0)
    assert later is not None and later.round == 2
    silo.inbox.pass_over(2)


def test_a_broken_socket_ends_the_wait(silo: Silo) -> None:
    silo.server.close()
    with pytest.raises(FederationError, match=r"^the silo's socket broke: OSError"):
        silo.inbox.next(10)
