"""What tests of servers and silos share: processes whose start takes most of their time."""

from collections.abc import Iterator

import pytest

from silo.forks import Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    slow = ("fedtt_lightning.privacy.optimizer", "fedtt_lightning.privacy.per_example")
    forks = Forks("silo.toy_server", "silo.toy_silo", *slow)
    yield forks
    forks.close()
