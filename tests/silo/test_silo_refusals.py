"""What a silo will not do, and what it says then; all of it asked of silos that live on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.silo.local_socket import ask
from fedtt_lightning.silo.messages import (
    Done,
    Hello,
    Here,
    NeedsAll,
    Refused,
    Train,
    Update,
    decode,
    encode,
)
from fedtt_lightning.silo.payloads import pack_names
from fedtt_lightning.silo.silo_settings import SiloSettings
from silo.asking import LIMIT, PlainServer
from silo.forks import Forks

pytestmark = pytest.mark.processes
SILO = "silo.toy_silo:run_silo"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("silo")


@pytest.fixture(scope="module")
def server(forks: Forks, folder: Path) -> Iterator[PlainServer]:
    """A server whose silo has answered round 1 of 3."""
    with TemporaryDirectory() as sockets:
        path = f"{sockets}/own/s"
        forks.start(SILO, folder, socket=path)
        server = PlainServer(path)
        assert isinstance(server.say(server.request(0)), Update)
        yield server
        assert isinstance(server.say(Hello(server.run)), Here), "it has not lived on"


def _refused(server: PlainServer, request: Train) -> str:
    answer = server.say(request)
    assert isinstance(answer, Refused)
    assert "\n" not in answer.reason
    return answer.reason


def test_requests_of_another_federation_are_refused(server: PlainServer) -> None:
    request = server.request(1)
    for other, words in (
        ({"run": "run-2"}, "holds the state of run run-1, not of run run-2"),
        ({"schema": "0" * 32}, "has the schema 000000000000, this one"),
        ({"experiment": 12}, "has seed 12, this one 11: use the same federation.seed"),
        ({"rounds": 5}, r"round 2 of 5 was asked for, but trainer.max_epochs is 3"),
        ({"round": 3}, "round 4 of 3"),
        ({"round": 0, "adapter": "0" * 32}, "has begun round 1 already"),
        ({"changed": ""}, "not about the 8 tensors"),
        ({"payload": b""}, "cannot be read"),
        ({"payload": request.payload[:-1]}, "no valid safetensors"),
    ):
        assert words in _refused(server, replace(request, **other))


def test_another_freezing_is_refused_with_the_difference(server: PlainServer) -> None:
    names = server.adapter.schema.names
    wrong = pack_names(server.trained(1) - {"net.core_0"}, names)
    reason = _refused(server, server.request(1, trained=wrong))
    assert "net.core_0 is frozen in round 2 at the server, but not here" in reason


def test_an_adapter_it_cannot_make_is_asked_for_as_a_whole(server: PlainServer) -> None:
    server.move(0.5)
    assert server.say(server.request(1, changed=frozenset())) == NeedsAll("run-1", 1)
    wrong = server.request(1, adapter="0" * 32)
    assert server.say(wrong) == NeedsAll("run-1", 1)
    server.adapter.tensors()["net.head.bias"][0] = float("nan")
    assert server.say(server.request(1)) == NeedsAll("run-1", 1)
    server.adapter.tensors()["net.head.bias"][0] = 0.0


@pytest.mark.parametrize("data", [b"", b"\0" * 100, encode(Done("run-1"))[:-1]])
def test_what_is_no_message_is_refused(server: PlainServer, data: bytes) -> None:
    assert isinstance(decode(ask(server.socket, data, LIMIT, 10), LIMIT), Refused)


def test_what_only_a_silo_says_is_refused(server: PlainServer) -> None:
    answer = server.say(NeedsAll("run-1", 1))
    assert answer == Refused("a server does not send NeedsAll")


def test_a_second_silo_on_the_same_socket_ends(
    forks: Forks, server: PlainServer, tmp_path: Path
) -> None:
    pid = forks.start(SILO, tmp_path, socket=str(server.socket))
    assert forks.wait(pid) == 2
    said = (tmp_path / "log").read_text().splitlines()[-1]
    assert "a worker already listens on" in said
    assert "silo.socket" in said


def test_a_second_silo_in_the_same_folder_ends(
    forks: Forks, server: PlainServer, folder: Path
) -> None:
    pid = forks.start(SILO, folder, socket=f"{server.socket}-2")
    assert forks.wait(pid) == 2
    assert f"error: another server or silo runs in {folder}" in (folder / "log").read_text()


def test_a_silo_gives_up_in_the_end(forks: Forks, tmp_path: Path) -> None:
    with TemporaryDirectory() as folder:
        pid = forks.start(SILO, tmp_path, socket=f"{folder}/own/s", give_up_after=0.1)
        assert forks.wait(pid) == 2
    assert "has asked for nothing for 0.1 s" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"client": 3}, r"silo\.client is 3"),
        ({"client": -1}, r"silo\.client is -1"),
        ({"give_up_after": 0.0}, r"silo\.give_up_after"),
        ({"give_up_after": float("inf")}, r"silo\.give_up_after is inf"),
        ({"server": "host:1"}, r"silo\.root_certificate is not"),
        ({"server": "host:1", "root_certificate": __file__}, r"silo\.key is not"),
        ({"server": "host:1", "root_certificate": "ca.crt"}, r"no file ca\.crt"),
    ],
)
def test_bad_keys_are_named(keys: dict[str, object], words: str) -> None:
    settings = {"client": 0, "clients": 3, "socket": "s", **keys}
    with pytest.raises(ConfigError, match=words):
        SiloSettings(**settings).check()
