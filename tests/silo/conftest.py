"""What tests of servers and silos share: processes whose start takes most of their time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from silo.forks import Forks
from silo.scripted_federation import Federation, simulate


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    slow = ("fedtt_lightning.privacy.optimizer", "fedtt_lightning.privacy.per_example")
    forks = Forks("silo.toy_server", "silo.toy_silo", *slow)
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], list[int]]:
    """What silos that stand in for real ones must agree with: see `simulate`."""
    return simulate(tmp_path_factory.mktemp("simulated"))


@pytest.fixture
def federation(tmp_path: Path, simulated: tuple[dict[str, str], list[int]]) -> Iterator[Federation]:
    """Four scripted silos, and a server to start."""
    tmp_path.chmod(0o700)
    federation = Federation(tmp_path, *simulated)
    yield federation
    for silo in federation.silos:
        silo.close()
