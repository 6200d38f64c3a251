"""A new federation's own files and commands, over Flower with TLS, end where `fit` does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryDirectory

import pytest

pytest.importorskip("flwr")

from fedtt_lightning.silo.envelope import pack
from silo.forks import Forks
from silo.written_federation import COMMANDS, WrittenFederation

pytestmark = [pytest.mark.flower, pytest.mark.processes]

SILOS = range(3)
ROUNDS = 3


@pytest.fixture
def federation(tiny_backbone: str) -> Iterator[WrittenFederation]:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        forks = Forks(*COMMANDS)
        stack.callback(forks.close)
        yield WrittenFederation(Path(folder) / "out", forks, tiny_backbone, len(SILOS), ROUNDS)


def test_killed_and_started_again_it_ends_where_fit_does(federation: WrittenFederation) -> None:
    server = federation.serve()
    silos = [federation.silo(number) for number in SILOS]
    fit = federation.fit()
    federation.wait_for("round 1/", federation.log("federation"))
    os.kill(server, SIGKILL)
    os.kill(silos[1], SIGKILL)
    assert [federation.ends(server), federation.ends(silos[1])] == [-SIGKILL, -SIGKILL]
    silos[1], server = federation.silo(1), federation.start("serve", "federation")
    assert federation.ends(server) == 0
    assert [federation.ends(silo) for silo in silos] == [0, 0, 0]
    assert federation.ends(fit) == 0
    federation.assert_same_weights()
    own = [federation.logged(f"silo-{silo}", "comm/download_bytes") for silo in SILOS]
    assert list(map(sum, zip(*own, strict=True))) == federation.logged("fit", "comm/download_bytes")
    for way in ("upload", "download"):
        wanted = federation.logged("fit", f"comm/{way}_bytes")
        assert federation.logged("server", f"comm/{way}_bytes") == wanted
        for sent, simulated_bytes in zip(
            federation.logged("server", f"comm/wire_{way}_bytes"), wanted, strict=True
        ):
            assert 1 < (sent + len(SILOS) * envelope_bytes()) / simulated_bytes <= 1.02


def envelope_bytes() -> int:
    """Return the bytes that a message of Flower has beside its payload."""
    from flwr.app import Message, Metadata
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    names = {"message_id": "0" * 64, "reply_to_message_id": "0" * 64, "group_id": ""}
    nodes = dict.fromkeys(("run_id", "src_node_id", "dst_node_id"), (1 << 63) - 1)
    times = {"created_at": 1.8e9, "ttl": 600.0, "message_type": "train"}
    message = Message(pack(bytes(50_000)), metadata=Metadata(**nodes, **names, **times))
    parts = get_all_nested_objects(message).values()
    return sum(len(part.deflate()) for part in parts) - 50_000
