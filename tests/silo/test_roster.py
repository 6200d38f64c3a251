"""Silos join only if they are who they should be, and say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import pytest

from fedtt_lightning.silo.direct_transport import DirectTransport
from fedtt_lightning.silo.messages import Done, Hello, Refused
from fedtt_lightning.silo.roster import Roster
from silo.scripted_silo import ScriptedSilo

EXAMPLES = [5, 7]
SETTINGS = {"data.batch_size": "batches of 4", "federation.seed": "seed 1"}


@pytest.fixture
def silos() -> Iterator[list[ScriptedSilo]]:
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{client}" for client in range(2)]
        silos = [ScriptedSilo(path, k, EXAMPLES, SETTINGS) for k, path in enumerate(paths)]
        yield silos
        for silo in silos:
            silo.close()


def roster(silos: list[ScriptedSilo], **options: Any) -> Roster:
    paths = [silo.path for silo in silos]
    return Roster(DirectTransport(paths, 1 << 20), "run-1", **options)


def test_silos_join_and_tell_their_examples(
    silos: list[ScriptedSilo], capsys: pytest.CaptureFixture[str]
) -> None:
    found = roster(silos)
    found.compare(SETTINGS)
    found.wait(10)
    assert (found.joined, found.examples) == ({0: 0, 1: 1}, {0: 5, 1: 7})
    assert found.missing == ""
    assert silos[0].heard == [Hello("run-1")]
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 silos have joined"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": 99}, "(protocol 99), the server"),
        ({"client": 0}, "it has silo.client 0 and silo.clients 2, but is silo 1 of 2"),
        ({"clients": 3}, "silo.clients 3"),
        ({"examples": 8}, "it has 8 examples, but 7 are known to the server"),
        ({"examples": 0}, "it says that it has 0 examples"),
        ({"examples": 1 << 63}, "it says that it has 9223372036854775808 examples"),
        ({"settings": {}}, "the server has batches of 4, client 1 has nothing: use the same data"),
        ({"settings": {**SETTINGS, "federation.seed": "seed 2"}}, "client 1 has seed 2"),
    ],
)
def test_a_silo_that_differs_is_refused_and_told_why(
    silos: list[ScriptedSilo], change: dict[str, Any], words: str
) -> None:
    silos[1].here = replace(silos[1].here, **change)
    found = roster(silos, examples=(5, 7))
    found.compare(SETTINGS)
    found.greet()
    assert found.joined == {0: 0}
    assert words in found.missing
    (told,) = [message.reason for message in silos[1].heard if isinstance(message, Refused)]
    assert words in told
    assert not any(isinstance(message, Refused) for message in silos[0].heard)


@pytest.mark.parametrize("answer", [Done("run-1"), Refused("of another run"), b"\x00 no message"])
def test_an_answer_that_is_no_greeting_lets_nobody_join(
    silos: list[ScriptedSilo], answer: Any
) -> None:
    silos[1].here = answer
    found = roster(silos)
    found.greet()
    assert found.joined == {0: 0}
    assert found.missing.startswith("client 1: ")


def test_one_that_has_gone_leaves_and_may_come_back(silos: list[ScriptedSilo]) -> None:
    found = roster(silos)
    found.greet()
    silos[0].close()
    found.greet()
    assert found.joined == {1: 1}
    assert found.missing == "client 0: it has gone"
    silos[0] = ScriptedSilo(silos[0].path, 0, EXAMPLES, SETTINGS)
    found.greet()
    assert sorted(found.joined) == [0, 1]


def test_a_silo_without_a_word_holds_up_a_round_once(silos: list[ScriptedSilo]) -> None:
    found, now = roster(silos), monotonic()
    assert not found.is_patient({})
    assert found.is_patient({0: now})
    assert not found.is_patient({0: now - 11})
    assert not found.is_patient({0: now})
    assert found.is_patient({0: now, 1: now})
    assert found.is_patient({0: now + 100})
