"""Silos that vanish inside a round: waited for a while, and asked again when they are back."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread
from time import sleep

import pytest

from fedtt_lightning.silo.messages import Done, Here, Refused, Train, Update
from silo.scripted_federation import ALL, Between, Federation, same
from toy_run import ROUNDS

PATIENCE = 20.0


def restart(federation: Federation, client: int, seconds: float) -> None:
    """Let a silo vanish, and be back after some seconds with what it had."""
    old = federation.silos[client]
    old.close()
    sleep(seconds)
    federation.silos[client] = new = federation.silo(client)
    new.tensors = old.tensors


def vanish(federation: Federation, client: int) -> Thread:
    """Let a silo be gone, and back after a second."""
    socket = Path(federation.sockets[client])
    back = Thread(target=restart, args=(federation, client, 1.0))
    back.start()
    while socket.exists():
        sleep(0.01)
    return back


@pytest.mark.parametrize("settings", [{"grace": 0}, {"grace": 0.3}, {"round_deadline": 1.5}])
def test_a_silo_that_stays_away_is_dropped_until_it_is_back(
    federation: Federation, settings: dict[str, float]
) -> None:
    def back() -> None:
        federation.silos[0] = federation.silo(0)

    actions = {0: federation.silos[0].close, 1: back}
    found, record = federation.serve(Between(actions), **settings)
    assert same(found, federation.expected([ALL, [1, 2, 3], ALL]))
    assert [record.rounds[r]["fed/clients_dropped"] for r in range(ROUNDS)] == [0, 1, 0]


def test_a_silo_that_comes_back_between_rounds_misses_none(federation: Federation) -> None:
    found, record = federation.serve(Between({0: lambda: vanish(federation, 0)}))
    assert same(found, federation.expected([ALL] * ROUNDS))
    assert record.rounds[1]["fed/clients_dropped"] == 0


def test_a_silo_that_comes_back_at_the_end_is_told_so(federation: Federation) -> None:
    federation.serve(Between({ROUNDS - 1: lambda: vanish(federation, 0)}))
    assert [type(message) for message in federation.silos[0].heard] == [Done]


def test_a_server_that_is_started_again_at_the_end_tells_all(federation: Federation) -> None:
    federation.serve()
    back = vanish(federation, 2)
    federation.serve()
    back.join()
    assert [type(message) for message in federation.silos[2].heard] == [Done]


def test_a_silo_that_vanishes_in_its_visit_is_asked_again_while_others_train(
    federation: Federation,
) -> None:
    back = Event()

    def gone(ask: Train) -> Update | None:
        if ask.round == 1:
            Thread(target=restart, args=(federation, 0, 0.2)).start()
            Thread(target=see_it_back).start()
            return None
        return federation.silos[0].update(ask)

    def see_it_back() -> None:
        while not (federation.silos[0] is not first and federation.silos[0].asks()):
            sleep(0.01)
        back.set()

    def slow(ask: Train) -> Update:
        assert ask.round != 1 or back.wait(PATIENCE)
        return federation.silos[1].update(ask)

    first = federation.silos[0]
    first.reply, federation.silos[1].reply = gone, slow
    found, record = federation.serve(round_deadline=PATIENCE)
    assert same(found, federation.expected([ALL] * ROUNDS))
    assert record.rounds[1]["fed/clients_dropped"] == 0
    assert federation.silos[0].asks()[0] == first.asks()[1]


def test_a_silo_that_is_back_may_take_the_grace_to_say_who_it_is(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedtt_lightning.silo.roster._PATIENCE", 0.1)  # of strangers

    def hesitate() -> Here:
        if first.asks():
            sleep(0.7)
        return first.here

    first = federation.silos[0]
    federation.silos[0].hello = hesitate
    first.reply = lambda ask: first.update(ask) if len(first.asks()) > 2 else bytes(1 << 21)
    found, record = federation.serve(grace=PATIENCE)
    assert same(found, federation.expected([ALL] * ROUNDS))
    assert record.rounds[0]["fed/clients_dropped"] == 0


def test_a_silo_that_comes_back_otherwise_is_refused(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(ask: Train) -> Update | None:
        if ask.round == 1:
            federation.settings = {**federation.settings, "trainer.max_epochs": "7 rounds"}
            Thread(target=restart, args=(federation, 0, 0.2)).start()
            return None
        return first.update(ask)

    first = federation.silos[0]
    first.reply = gone
    found, record = federation.serve()
    assert same(found, federation.expected([ALL, [1, 2, 3], [1, 2, 3]]))
    assert [record.rounds[r]["fed/clients_dropped"] for r in range(ROUNDS)] == [0, 1, 1]
    (told, *_) = [m.reason for m in federation.silos[0].heard if isinstance(m, Refused)]
    assert "client 0 has 7 rounds" in told
    assert f"client 0 is dropped: {told}" in capsys.readouterr().out


def test_a_silo_that_fails_at_once_each_time_is_not_asked_until_the_deadline(
    federation: Federation,
) -> None:
    federation.silos[0].reply = lambda ask: bytes(1 << 21)  # more than the server reads
    found, record = federation.serve(rounds=1, grace=0.7)
    assert same(found, federation.expected([[1, 2, 3]]))
    assert record.rounds[0]["fed/clients_dropped"] == 1
    assert 2 <= len(federation.silos[0].asks()) <= 5


def test_others_are_asked_before_a_silo_has_said_who_it_is(federation: Federation) -> None:
    others = Event()

    def fail_first(ask: Train) -> Update | bytes:
        return bytes(1 << 21) if ask.round == 0 else silo.update(ask)

    def tell(ask: Train) -> Update:
        if ask.round == 1:
            others.set()
        return federation.silos[1].update(ask)

    def hesitate() -> Here:
        assert not silo.asks() or others.wait(PATIENCE)
        return silo.here

    silo = federation.silos[0]
    silo.reply, silo.hello, federation.silos[1].reply = fail_first, hesitate, tell
    found, _ = federation.serve(grace=0, round_deadline=PATIENCE)
    assert same(found, federation.expected([[1, 2, 3], ALL, ALL]))
