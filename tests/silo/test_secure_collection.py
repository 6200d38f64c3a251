"""Sums over real sockets: silos vanish, refuse or answer nonsense between stages, and restart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import torch

pytest.importorskip("cryptography")
pytest.importorskip("Crypto")

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.direct_transport import DirectTransport
from fedtt_lightning.silo.local_socket import LocalServer
from fedtt_lightning.silo.messages import Refused, Stage, Update, decode, encode
from fedtt_lightning.silo.secure_answers import SecureAnswers
from fedtt_lightning.silo.secure_collection import SecureCollection
from fedtt_lightning.silo.secure_letters import write_integers

ROWS = torch.randint(0, 2**32, (4, 6), generator=torch.Generator().manual_seed(3))
LIMIT = 1 << 16
Spoil = Callable[[Stage, Stage], bytes | None]


def serve(server: LocalServer, answers: SecureAnswers, spoil: Spoil | None, over: Event) -> None:
    """Answer stages as a silo does, but for what `spoil` makes of them; None is no answer."""
    held = []
    while not over.is_set():
        if (request := server.receive(0.05)) is None:
            continue
        ask = decode(request.payload, LIMIT)
        assert isinstance(ask, Stage)
        try:
            answer = answers.answer(ask)
        except FederationError as error:
            request.reply(encode(Refused(str(error))))
            continue
        data = encode(answer) if spoil is None else spoil(ask, answer)
        if data is None:
            held.append(request)
        else:
            request.reply(data)


def keys_of(answers: SecureAnswers, round: int, client: int) -> bytes:
    trained = Update(
        "run",
        round,
        client,
        10,
        None,
        1.0,
        None,
        write_integers(ROWS[client].numpy().astype(np.uint64), 32),
    )
    answer = decode(answers.begin(encode(trained)), LIMIT)
    assert isinstance(answer, Update)
    assert replace(answer, payload=b"") == replace(trained, payload=b"")
    return answer.payload


class Silos:
    """Four silos of one run in threads, which keep their notes when they start anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def answering(self, spoil: dict[int, Spoil], round: int = 0) -> Iterator[SecureCollection]:
        paths = [self.folder / str(client) for client in range(4)]
        answers = [SecureAnswers(c, 4, 32, 2, self.folder / f"note-{c}") for c in range(4)]
        self.keys = {c: keys_of(answers[c], round, c) for c in range(4)}
        over = Event()
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(LocalServer(path, LIMIT)) for path in paths]
            threads = [
                Thread(target=serve, args=(servers[c], answers[c], spoil.get(c), over))
                for c in range(4)
            ]
            for thread in threads:
                thread.start()
            transport = DirectTransport(paths, LIMIT)
            nodes = {client: client for client in range(4)}
            try:
                yield SecureCollection(transport, nodes, "run", round, 32, 6, 2)
            finally:
                over.set()
                for thread in threads:
                    thread.join(10)


@pytest.fixture
def silos(tmp_path: Path) -> Silos:
    tmp_path.chmod(0o700)
    return Silos(tmp_path)


def at(stage: int, data: bytes | None) -> Spoil:
    return lambda ask, answer: data if ask.stage == stage else encode(answer)


def check(collection: SecureCollection, silos: Silos, members: list[int]) -> None:
    total = collection.run(silos.keys, 1.0)
    assert total.tolist() == (ROWS[members].sum(0) % 2**32).tolist()
    assert sorted(collection.lost) == [c for c in range(4) if c not in members]


def test_all_answer(silos: Silos) -> None:
    with silos.answering({}) as collection:
        check(collection, silos, [0, 1, 2, 3])
    assert collection.received > 4 * 6 * 4


@pytest.mark.parametrize(
    ("stage", "data", "reason"),
    [
        (1, None, "no answer within 1 s"),
        (2, b"nonsense", "no message of fedtt-lightning"),
        (2, encode(Stage("run", 1, 2, bytes(24))), "not one to stage 2"),
        (2, encode(Stage("run", 0, 2, bytes(23))), "has 23 bytes, not 24"),
        (2, encode(Refused("out of memory")), "out of memory"),
    ],
)
def test_one_is_left_out(silos: Silos, stage: int, data: bytes | None, reason: str) -> None:
    with silos.answering({2: at(stage, data)}) as collection:
        check(collection, silos, [0, 1, 3])
    assert reason in collection.lost[2]


def test_a_vector_that_has_come_counts(silos: Silos) -> None:
    with silos.answering({2: at(3, b"")}) as collection:
        check(collection, silos, [0, 1, 2, 3])


def test_too_few_are_left(silos: Silos) -> None:
    with (
        silos.answering({1: at(2, b""), 2: at(2, b"")}) as collection,
        pytest.raises(FederationError, match="needs 3 clients, but only 2 have sent masked"),
    ):
        collection.run(silos.keys, 5.0)
    assert sorted(collection.lost) == [1, 2]


def test_a_round_is_unmasked_again_for_the_same_clients_only(silos: Silos) -> None:
    """Its server has lost the sum; the silos started anew in between."""
    with silos.answering({3: at(2, b"")}) as collection:
        check(collection, silos, [0, 1, 2])
    with silos.answering({3: at(2, b"")}) as collection:
        check(collection, silos, [0, 1, 2])
    with (
        silos.answering({}) as collection,
        pytest.raises(FederationError, match="only 1 have revealed"),
    ):
        collection.run(silos.keys, 5.0)
    assert "two different sums would give single updates away" in collection.lost[0]
    with silos.answering({}, round=1) as collection:
        check(collection, silos, [0, 1, 2, 3])


def test_stages_of_another_round(silos: Silos) -> None:
    with silos.answering({}) as collection:
        other = SecureCollection(collection._transport, collection._nodes, "run", 1, 32, 6, 2)
        with pytest.raises(FederationError, match="needs 3 clients, but only 0 have"):
            other.run(silos.keys, 5.0)
        assert "secure aggregation of round 2 is not open here" in other.lost[0]
        check(collection, silos, [0, 1, 2, 3])
