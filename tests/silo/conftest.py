"""What tests of silos share: processes whose start takes most of their time."""

from collections.abc import Iterator

import pytest

from silo.forked_silos import ForkedSilos


@pytest.fixture(scope="session")
def silos() -> Iterator[ForkedSilos]:
    started = ForkedSilos()
    yield started
    started.close()
